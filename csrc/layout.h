// The kernel layout of a weight matrix: tiles of 16 rows, interleaved for dot products.
//
// A tile is planes, each 64-byte aligned: supers, scales, high bits, codes. Columns come in groups
// of 32, a group in 8 steps of 4 columns. A step of codes is 64 bytes, byte 4 * row + i for column
// 4 * step + i. How codes of fewer bits share bytes:
//   nibbles  4 vectors a group; low half: steps 0..3, high half: steps 4..7
//   pairs    2 vectors a group (2 bits a code); vector v holds steps 4v..4v+3, lowest bits first
//   singles  1 vector a group (1 bit a code); bit j is step j
// Codes of a byte are stored 128 too large, unsigned.
// Floats are not grouped: f32 and f16 are [column][16 rows], bf16 [column / 2][16 rows][2].
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats.h"

namespace expertly {

constexpr int kTileRows = 16;
constexpr int kGroup = 32;  // columns a group, and activations a scale
constexpr int kSuper = 256;

enum class Codes : int { floats, nibbles, fives, sixes, bytes, twos, threes };

// what the scales plane holds of a group, and the supers plane of a super-block or row
enum class Scales : int {
    none,
    half,         // 16 f16
    half_min,     // 16 f16 scales, 16 f16 minima: weight = scale * q + min
    exponent,     // 16 powers of two, exponent + 127 in a byte
    bytes_min,    // 16 u8 scales, 16 u8 minima; supers: 16 f16 d, 16 f16 dmin, a super-block
    row_min,      // the same; supers: 16 f32 d, 16 f32 dmin, a row
    half_groups,  // 2 x 16 signed scales, 16 columns each; supers: 16 f16 d, a super-block
    half_groups_min,  // 2 x 16 bytes, low nibble scale, high nibble min; supers as bytes_min
};

constexpr bool has_halves(Scales scales) {
    return scales == Scales::half_groups || scales == Scales::half_groups_min;
}

struct Scheme {
    Codes codes;
    Scales scales;
    int offset;  // what is subtracted from an unsigned code
    bool is_signed;  // codes are signed bytes, or nibbles of a table of such
};

constexpr Scheme kSchemes[] = {
    {Codes::floats, Scales::none, 0, false},             // f32
    {Codes::floats, Scales::none, 0, false},             // f16
    {Codes::floats, Scales::none, 0, false},             // bf16
    {Codes::bytes, Scales::half, 0, true},               // q8_0
    {Codes::nibbles, Scales::half, 8, false},            // q4_0
    {Codes::nibbles, Scales::half_min, 0, false},        // q4_1
    {Codes::fives, Scales::half, 16, false},             // q5_0
    {Codes::fives, Scales::half_min, 0, false},          // q5_1
    {Codes::nibbles, Scales::bytes_min, 0, false},       // q4_k
    {Codes::fives, Scales::bytes_min, 0, false},         // q5_k
    {Codes::sixes, Scales::half_groups, 32, false},      // q6_k
    {Codes::threes, Scales::half_groups, 4, false},      // q3_k
    {Codes::twos, Scales::half_groups_min, 0, false},    // q2_k
    {Codes::nibbles, Scales::half, 0, true},             // iq4_nl
    {Codes::nibbles, Scales::exponent, 16, false},       // mxfp4
    {Codes::nibbles, Scales::row_min, 0, false},         // i4
};
static_assert(sizeof(kSchemes) / sizeof(kSchemes[0]) == static_cast<size_t>(Format::count));

inline constexpr const Scheme& scheme_of(Format format) {
    return kSchemes[static_cast<int>(format)];
}

// values of the 16 codes of the two formats with a table; mxfp4's are doubled, its scale halved,
// and as unsigned codes 16 too large: products of signed ones take more instructions
constexpr int8_t kIq4Table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};
constexpr int8_t kMxfp4Table[16] = {16, 17, 18, 19, 20, 22, 24, 28,
                                    16, 15, 14, 13, 12, 10, 8,  4};

struct Layout {
    int64_t rows, columns;  // as asked for
    int64_t tiles;          // of 16 rows, the last one padded with zeros
    int64_t groups;         // of 32 columns, padded with zeros
    int64_t scales, high, codes;  // where the planes begin in a tile; supers begin at 0
    int64_t tile_bytes;

    int64_t num_bytes() const { return tiles * tile_bytes; }
};

Layout layout_of(Format format, int64_t rows, int64_t columns);

// bytes a group of 32 columns takes in each plane, for 16 rows
inline constexpr int64_t code_bytes(Codes codes) {
    switch (codes) {
        case Codes::floats: return 0;
        case Codes::bytes: return 512;
        case Codes::twos:
        case Codes::threes: return 128;
        default: return 256;
    }
}

inline constexpr int64_t high_bytes(Codes codes) {
    switch (codes) {
        case Codes::fives:
        case Codes::threes: return 64;
        case Codes::sixes: return 128;
        default: return 0;
    }
}

inline constexpr int64_t scale_bytes(Scales scales) {
    switch (scales) {
        case Scales::none: return 0;
        case Scales::half_min: return 64;
        case Scales::exponent: return 16;
        default: return 32;
    }
}

// a matrix that kernels read; the bytes belong to somebody else
struct Matrix {
    Format format;
    Layout layout;
    const uint8_t* data;

    const uint8_t* tile(int64_t index) const { return data + index * layout.tile_bytes; }
};

}  // namespace expertly
