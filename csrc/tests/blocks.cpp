// Random tensors of every format, as files hold them.

#include <cstring>

#include "../half.h"
#include "check.h"

namespace expertly {

namespace {

// where the float16 scales and minima of a block lie
std::vector<int> halves_at(Format format) {
    switch (format) {
        case Format::q8_0:
        case Format::q4_0:
        case Format::q5_0:
        case Format::iq4_nl: return {0};
        case Format::q4_1:
        case Format::q5_1:
        case Format::q4_k:
        case Format::q5_k: return {0, 2};
        case Format::q6_k: return {208};
        case Format::q3_k: return {108};
        case Format::q2_k: return {80, 82};
        default: return {};
    }
}

void put_half(uint8_t* at, float value) {
    const uint16_t half = half_of_float(value);
    std::memcpy(at, &half, 2);
}

void put_float_weight(Format format, uint8_t* at, float value) {
    const uint32_t bits = bits_of_float(value);
    if (format == Format::f16) put_half(at, value);
    else if (format == Format::f32) std::memcpy(at, &bits, 4);
    // the upper half of a float32's bits
    else at[0] = static_cast<uint8_t>(bits >> 16), at[1] = static_cast<uint8_t>(bits >> 24);
}

void tame(Format format, uint8_t* block, Random& random) {
    if (scheme_of(format).codes == Codes::floats)
        return put_float_weight(format, block, random.normal());
    for (int at : halves_at(format)) {
        const double size = random.uniform(0.01, 0.1);
        put_half(block + at, static_cast<float>(random.below(2) ? size : -size));
    }
    if (format == Format::mxfp4) block[0] = static_cast<uint8_t>(118 + random.below(13));
}

void tame_head(uint8_t* row, int num_bytes, Random& random) {
    for (int at = 0; at < num_bytes; at += 4) {
        const float size = static_cast<float>(random.uniform(1e-3, 1e-2));
        std::memcpy(row + at, &size, 4);
    }
}

}  // namespace

std::vector<uint8_t> random_blocks(Format format, int64_t rows, int64_t columns, bool has_any_bits,
                                   Random& random) {
    const int64_t stride = row_bytes(format, columns);
    const Block& block = block_of(format);
    std::vector<uint8_t> bytes(static_cast<size_t>(rows * stride));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.bits());
    if (has_any_bits) return bytes;
    for (int64_t row = 0; row < rows; ++row) {
        uint8_t* begin = bytes.data() + row * stride;
        tame_head(begin, block.row_bytes, random);
        for (int64_t at = block.row_bytes; at < stride; at += block.num_bytes)
            tame(format, begin + at, random);
    }
    return bytes;
}

}  // namespace expertly
