// Activations into the forms that tiles read: groups of int8, or bfloat16.
#pragma once

#include "../half.h"
#include "../kernels.h"

namespace expertly {
namespace {

// the bits of the largest magnitude, which order floats, infinity and NaN
template <class I>
I_INLINE int32_t largest_bits(const float* x) {
    auto most = I::zero();
    for (int i = 0; i < kGroup; i += I::lanes)
        most = I::max_int(most, I::magnitude_bits(I::load_float(x + i)));
    return I::largest(most);
}

// a group with an infinity or NaN makes every result of its row NaN
inline void spoil_group(const GroupPlaces& to) {
    const float nan = __builtin_nanf("");
    for (int i = 0; i < kGroup; ++i) to.q[i] = 0;
    *to.start = *to.signed_start = kOrigin;
    *to.scale = *to.sum = nan;
    if (to.half_starts == nullptr) return;
    to.half_starts[0] = to.half_starts[1] = kOrigin;
    to.half_sums[0] = to.half_sums[1] = nan;
}

// q = x * (127 / largest) rounded to nearest even, scale = largest / 127, a group of 32 by itself
template <class I>
I_INLINE void quantise_group(const float* x, const GroupPlaces& to) {
    const int32_t bits = largest_bits<I>(x);
    if (bits >= 0x7F800000) return spoil_group(to);
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const float d = largest / 127.0f;
    // below that the quotient overflows; such a group is zero to float32 anyway
    const float inverse = largest > 1e-35f ? 127.0f / largest : 0.0f;
    int32_t half[2];
    for (int h = 0; h < 2; ++h) {
        auto sum = I::zero();
        for (int i = 16 * h; i < 16 * (h + 1); i += I::lanes) {
            const auto q = I::round(I::mul(I::load_float(x + i), I::set(inverse)));
            I::store_s8(to.q + i, q);
            sum = I::add_int(sum, q);
        }
        half[h] = I::sum(sum);
    }
    *to.scale = d;
    const int32_t both = half[0] + half[1];
    *to.start = kOrigin - kStartOffset * both;
    *to.signed_start = kOrigin - kSignedOffset * both;
    *to.sum = d * static_cast<float>(both);
    if (to.half_starts == nullptr) return;
    for (int i = 0; i < 2; ++i) {
        to.half_starts[i] = kOrigin - kHalfOffset * half[i];
        to.half_sums[i] = d * static_cast<float>(half[i]);
    }
}

template <class I>
void quantise_row(const float* x, int64_t columns, const GroupPlaces& to) {
    const int64_t whole = columns / kGroup;
    for (int64_t g = 0; g < whole; ++g) quantise_group<I>(x + g * kGroup, to.at(g));
    if (whole * kGroup == columns) return;
    float padded[kGroup] = {};
    for (int64_t c = whole * kGroup; c < columns; ++c) padded[c - whole * kGroup] = x[c];
    quantise_group<I>(padded, to.at(whole));
}

// to nearest, ties to even; an odd row is padded with one zero
template <class I>
void to_bf16(const float* x, int64_t n, uint16_t* y) {
    for (int64_t i = 0; i < n; ++i) y[i] = bf16_of_float(x[i]);
    if (n % 2) y[n] = 0;
}

}  // namespace
}  // namespace expertly
