// A scale and a minimum for one group: weight = scale * code - min, codes 0..top.
#pragma once

#include "group.h"

namespace expertly {
namespace {

struct Affine {
    float scale, min;  // scale is not negative; min counts from the group's base
    float error;
};

// codes 0..top nearest to (x + min) / scale; all 0 where scale is 0
template <int N>
void round_affine(const Group<N>& group, float scale, float min, int top, float* q) {
    const float inverse = inverse_of(scale);
    const Four most = all(static_cast<float>(top));
    for (int i = 0; i < N; i += kLanes)
        put(q + i, rounded(clamped((four(group.x + i) + min) * inverse, Four{}, most)));
}

// the best scale and minimum for given codes; `floor` bounds the minimum from below
template <int N>
Affine refit(const Group<N>& group, const float* q, float floor) {
    const Sums s = sums_of(group, q);
    const float det = group.sum_w * s.qq - s.q * s.q;
    float scale = det > 0 ? (group.sum_w * s.qx - s.q * group.sum_wx) / det : 0;
    float min = (scale * s.q - group.sum_wx) / group.sum_w;
    if (!(scale >= 0) || min < floor) {
        min = min < floor ? floor : min;
        scale = s.qq > 0 ? (s.qx + min * s.q) / s.qq : 0;
        scale = scale > 0 ? scale : 0;
    }
    return {scale, min, error_of(group, q, scale, min)};
}

// least to greatest weight; `floor` as below
template <int N>
Affine span(const Group<N>& group, int top, float floor) {
    const float min = -group.least > floor ? -group.least : floor;
    const float width = group.most + min;
    return {width > 0 ? width / static_cast<float>(top) : 0, min, 0};
}

// Small shifts of both ends of the span, each refitted; then rounding and refitting in turn until
// that gains nothing. `floor`: the least minimum that the format can hold, from the group's base.
template <int N>
Affine fit_affine(const Group<N>& group, int top, float floor) {
    constexpr int kTurns = 5;
    const Affine start = span(group, top, floor);
    float q[N];
    round_affine(group, start.scale, start.min, top, q);
    Affine best = start;
    best.error = error_of(group, q, start.scale, start.min);
    if (start.scale == 0) return best;
    const float width = start.scale * static_cast<float>(top);
    for (int low = -1; low <= 1; ++low)
        for (int high = low == 0 ? -4 : -2; high <= 2; ++high) {
            const float scale = width / (static_cast<float>(top) + 0.5f * high);
            round_affine(group, scale, start.min + scale * low / 3, top, q);
            const Affine next = refit(group, q, floor);
            if (next.error < best.error) best = next;
        }
    for (int i = 0; i < kTurns; ++i) {
        round_affine(group, best.scale, best.min, top, q);
        const Affine next = refit(group, q, floor);
        if (!(next.error < best.error)) break;
        best = next;
    }
    return best;
}

}  // namespace
}  // namespace expertly
