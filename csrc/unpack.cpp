#include "half.h"
#include "pack.h"

namespace expertly {

namespace {

uint16_t half_at(const uint8_t* p, int row) {
    uint16_t value;
    std::memcpy(&value, p + 2 * row, 2);
    return value;
}

float float_at(const uint8_t* p, int row) {
    float value;
    std::memcpy(&value, p + 4 * row, 4);
    return value;
}

// added to a zero it leaves the zero's sign
constexpr float kNoMin = -0.0f;

struct ScaleMin {
    float scale, min;  // weight = scale * code + min
};

// of 16 columns: half 0 or 1 of group g
ScaleMin scale_min(const Layout& layout, Scales scales, const uint8_t* tile, int64_t g, int half,
                   int row) {
    const uint8_t* here = tile + layout.scales + g * scale_bytes(scales);
    const uint8_t* wide = tile + g / 8 * 64;
    const uint8_t byte = here[half * 16 + row];
    switch (scales) {
        case Scales::half: return {float_of_half(half_at(here, row)), kNoMin};
        case Scales::half_min:
            return {float_of_half(half_at(here, row)), float_of_half(half_at(here + 32, row))};
        case Scales::exponent: return {half_of_exponent(here[row]), kNoMin};
        case Scales::bytes_min:
            return {float_of_half(half_at(wide, row)) * here[row],
                    -(float_of_half(half_at(wide + 32, row)) * here[16 + row])};
        case Scales::row_min:
            return {float_at(tile, row) * here[row], -(float_at(tile + 64, row) * here[16 + row])};
        case Scales::half_groups:
            return {float_of_half(half_at(tile + g / 8 * 32, row)) * static_cast<int8_t>(byte),
                    kNoMin};
        case Scales::half_groups_min:
            return {float_of_half(half_at(wide, row)) * (byte & 15),
                    -(float_of_half(half_at(wide + 32, row)) * (byte >> 4))};
        default: return {1, 0};
    }
}

int nibble_at(const uint8_t* codes, int step, int lane) {
    const uint8_t byte = codes[step % 4 * 64 + lane];
    return step < 4 ? byte & 15 : byte >> 4;
}

int pair_at(const uint8_t* plane, int step, int lane) {
    return (plane[step / 4 * 64 + lane] >> (2 * (step % 4))) & 3;
}

int single_at(const uint8_t* plane, int step, int lane) { return (plane[lane] >> step) & 1; }

int code_at(Format format, const uint8_t* codes, const uint8_t* high, int step, int lane) {
    switch (scheme_of(format).codes) {
        case Codes::bytes: return codes[step * 64 + lane] - 128;
        case Codes::fives: return nibble_at(codes, step, lane) | single_at(high, step, lane) << 4;
        case Codes::sixes: return nibble_at(codes, step, lane) | pair_at(high, step, lane) << 4;
        case Codes::twos: return pair_at(codes, step, lane);
        case Codes::threes: return pair_at(codes, step, lane) | single_at(high, step, lane) << 2;
        default: break;
    }
    const int nibble = nibble_at(codes, step, lane);
    if (format == Format::iq4_nl) return kIq4Table[nibble];
    if (format == Format::mxfp4) return kMxfp4Table[nibble];
    return nibble;
}

void unpack_floats(Format format, const Layout& layout, const uint8_t* tile, int row, float* out) {
    const int pair = format == Format::bf16 ? 2 : 1;
    for (int64_t c = 0; c < layout.columns; ++c) {
        const int64_t place = (c / pair * kTileRows + row) * pair + c % pair;
        if (format == Format::f32) out[c] = float_at(tile + 4 * place, 0);
        else if (format == Format::f16) out[c] = float_of_half(half_at(tile + 2 * place, 0));
        else out[c] = float_of_bf16(half_at(tile + 2 * place, 0));
    }
}

}  // namespace

void unpack_row(const Matrix& matrix, int64_t index, float* out) {
    const Layout& layout = matrix.layout;
    const Scheme& scheme = scheme_of(matrix.format);
    const uint8_t* tile = matrix.tile(index / kTileRows);
    const int row = static_cast<int>(index % kTileRows);
    if (scheme.codes == Codes::floats) return unpack_floats(matrix.format, layout, tile, row, out);
    for (int64_t c = 0; c < layout.columns; ++c) {
        const int64_t g = c / kGroup;
        const int in_group = static_cast<int>(c % kGroup);
        const auto by = scale_min(layout, scheme.scales, tile, g, in_group / 16, row);
        const int code = code_at(matrix.format, tile + layout.codes + g * code_bytes(scheme.codes),
                                 tile + layout.high + g * high_bytes(scheme.codes), in_group / 4,
                                 4 * row + in_group % 4);
        out[c] = by.scale * static_cast<float>(code - scheme.offset) + by.min;
    }
}

}  // namespace expertly
