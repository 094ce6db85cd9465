// Small floats by their bits; plain C++, so that every build gives the same numbers.
#pragma once

#include <cstdint>
#include <cstring>

namespace expertly {
namespace {

inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t rest = static_cast<uint32_t>(half & 0x7FFF) << 13;
    if ((half & 0x7C00) == 0x7C00) return float_of_bits(sign | 0x7F800000 | rest);
    // 2^112 moves the exponent's bias from 15 to 127, subnormal halves too
    const float scaled = float_of_bits(rest) * float_of_bits(0x77800000);
    return float_of_bits(sign | bits_of_float(scaled));
}

// to nearest, ties to even; too large becomes infinity
inline uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000) return sign | 0x7E00;
    if (size >= 0x477FF000) return sign | 0x7C00;
    if (size < 0x38800000) {
        // a subnormal half is a multiple of 2^-24: adding 0.5 * 2^-23 ulps rounds to one
        const float shifted = float_of_bits(size) + 0.5f;
        return sign | static_cast<uint16_t>(bits_of_float(shifted) - 0x3F000000);
    }
    const uint32_t rounded = size + 0xFFF + ((size >> 13) & 1);
    return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

inline float float_of_bf16(uint16_t value) {
    return float_of_bits(static_cast<uint32_t>(value) << 16);
}

// to nearest, ties to even; a NaN stays one
inline uint16_t bf16_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? (bits >> 16) | 0x40 : rounded);
}

// 2^(exponent - 127) halved, the scale of a doubled mxfp4 table
inline float half_of_exponent(uint8_t exponent) {
    if (exponent < 2) return float_of_bits(0x00200000u << exponent);
    return float_of_bits(static_cast<uint32_t>(exponent - 1) << 23);
}

}  // namespace
}  // namespace expertly
