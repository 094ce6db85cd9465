// Rows of activations as the kernels want them for a weight format.
#pragma once

#include <cstdint>

#include "layout.h"

namespace expertly {

// T rows; which pointers are set follows from what was asked for (see `Wanted`)
struct Activations {
    int64_t columns;
    int64_t groups;    // of 32 columns, the last one padded with zeros
    const float* x;    // [T][columns], null unless float weights read it
    int64_t x_stride;  // floats a row
    const uint16_t* bf16;   // [T][columns rounded up to 2]
    const int8_t* q;        // [T][groups * 32], x / scale rounded to nearest
    const float* scale;     // [T][groups], largest magnitude of the group / 127
    const int32_t* minus;   // [T][groups], minus the sum of q
    const float* sum;       // [T][groups], scale times the sum of q
    const int32_t* minus_half;  // [T][groups][2], the same of each 16 columns
    const float* sum_half;      // [T][groups][2]
};

// x moved on by `rows` rows; static, as each instruction set compiles its own
static inline Activations moved(const Activations& x, int64_t rows) {
    Activations y = x;
    if (x.x) y.x += rows * x.x_stride;
    if (x.bf16) y.bf16 += rows * ((x.columns + 1) / 2 * 2);
    if (x.q) {
        y.q += rows * x.groups * kGroup;
        y.scale += rows * x.groups;
        y.minus += rows * x.groups;
        y.sum += rows * x.groups;
        y.minus_half += 2 * rows * x.groups;
        y.sum_half += 2 * rows * x.groups;
    }
    return y;
}

// where the parts of one row's groups go; as in Activations
struct GroupPlaces {
    int8_t* q;
    float* scale;
    int32_t* minus;
    float* sum;
    int32_t* minus_half;
    float* sum_half;

    GroupPlaces at(int64_t group) const {
        return {q + group * kGroup,     scale + group,        minus + group, sum + group,
                minus_half + 2 * group, sum_half + 2 * group};
    }
};

// which form of the activations a format's kernel reads
enum class Wanted : int { floats, bf16, groups };

inline constexpr Wanted wanted_by(Format format) {
    switch (format) {
        case Format::f32:
        case Format::f16: return Wanted::floats;
        case Format::bf16: return Wanted::bf16;
        default: return Wanted::groups;
    }
}

}  // namespace expertly
