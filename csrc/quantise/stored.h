// Scales as a block can hold them, while its weights are counted in a power of two near them.
#pragma once

#include <cmath>
#include <cstring>

#include "../half.h"
#include "group.h"

namespace expertly {
namespace {

// a power of two near the greatest of the values, so that their squares stay finite; 1 for zeros
inline float unit_of(const float* values, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float size = std::fabs(values[i]);
        most = size > most ? size : most;
    }
    if (most == 0) return 1;
    const int exponent = std::ilogb(most);
    return std::ldexp(1.0f, exponent < -126 ? -126 : exponent);
}

constexpr float kMostHalf = 65504;

// the nearest scale to v that a block can hold, in the same unit; a half that is not 0 stays so
class Stored {
public:
    // as halves
    explicit Stored(float unit) : Stored(unit, kMostHalf, true) {}

    // as floats, bounded so that what they are multiplied with in a block stays finite
    Stored(float unit, float most) : Stored(unit, most, false) {}

    float operator()(float v) const {
        return (is_half_ ? float_of_half(half(v)) : full(v)) * inverse_;
    }

    uint16_t half(float v) const {
        const float value = v * unit_;
        const uint16_t sign = v < 0 ? 0x8000 : 0;
        const float size = std::fabs(value);
        if (size >= kMostHalf) return sign | 0x7BFF;
        const uint16_t bits = half_of_float(size);
        return v != 0 && bits == 0 ? sign | 1 : sign | bits;
    }

    float full(float v) const { return clamped(v * unit_, -most_, most_); }

private:
    Stored(float unit, float most, bool is_half)
        : unit_(unit), inverse_(1 / unit), most_(most), is_half_(is_half) {}

    float unit_, inverse_, most_;
    bool is_half_;
};

inline void put_half(uint8_t* to, uint16_t value) { std::memcpy(to, &value, 2); }

}  // namespace
}  // namespace expertly
