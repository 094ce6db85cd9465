// A scale alone for one group: weight = scale * value, values from a book of codes.
#pragma once

#include <cstdint>

#include "group.h"

namespace expertly {
namespace {

// whole numbers lowest..highest
struct Whole {
    float lowest, highest;
    static constexpr float step = 1;

    Four nearest(Four v) const { return rounded(clamped(v, all(lowest), all(highest))); }
    int code(float value) const { return static_cast<int>(value - lowest); }
    int num_values() const { return code(highest) + 1; }
    float value(int code) const { return lowest + static_cast<float>(code); }
};

// 16 values in rising order
struct Table {
    float values[16], middles[16];  // from the value before
    float step;
    float lowest, highest;

    Table(const int8_t* from, float step) : step(step) {
        for (int i = 0; i < 16; ++i) values[i] = from[i];
        for (int i = 1; i < 16; ++i) middles[i] = 0.5f * (values[i - 1] + values[i]);
        lowest = values[0], highest = values[15];
    }

    Four nearest(Four v) const {
        Four value = all(values[0]);
        for (int i = 1; i < 16; ++i)
            value = v > all(middles[i]) ? all(values[i]) : value;
        return value;
    }
    int code(float value) const {
        int i = 0;
        while (values[i] < value) ++i;
        return i;
    }
    int num_values() const { return 16; }
    float value(int code) const { return values[code]; }
};

struct Scale {
    float scale, error;
};

template <int N, class Book>
void round_scaled(const Group<N>& group, float scale, const Book& book, float* q) {
    const float inverse = inverse_of(scale);
    for (int i = 0; i < N; i += kLanes) put(q + i, book.nearest(four(group.x + i) * inverse));
}

template <int N>
Scale refit(const Group<N>& group, const float* q) {
    const Sums s = sums_of(group, q);
    const float scale = s.qq > 0 ? s.qx / s.qq : 0;
    return {scale, error_of(group, q, scale, 0)};
}

template <int N, class Book>
float rounding_error(const Group<N>& group, float scale, const Book& book) {
    float q[N];
    round_scaled(group, scale, book, q);
    return error_of(group, q, scale, 0);
}

// the weight furthest from 0
template <int N>
float extreme_of(const Group<N>& group) {
    return -group.least > group.most ? group.least : group.most;
}

// the extreme weight taken for the lowest value, or for the end of its sign in an even book
template <int N, class Book>
float plain_scale(const Group<N>& group, const Book& book) {
    const float extreme = extreme_of(group);
    const bool is_high = extreme > 0 && book.lowest == -book.highest;
    return extreme / (is_high ? book.highest : book.lowest);
}

// the extreme weight taken for values about both ends of the book, each refitted; then rounding
// and refitting in turn until that gains nothing
template <int N, class Book>
Scale fit_scale(const Group<N>& group, const Book& book) {
    constexpr int kTurns = 5;
    const float extreme = extreme_of(group);
    float q[N];
    if (extreme == 0) return {0, 0};
    Scale best{plain_scale(group, book), 0};
    best.error = rounding_error(group, best.scale, book);
    const auto attempt = [&](float scale) {
        round_scaled(group, scale, book, q);
        const Scale next = refit(group, q);
        const bool is_better = next.error < best.error;
        if (is_better) best = next;
        return is_better;
    };
    for (int i = -6; i <= 4; ++i) {
        const float more = 0.25f * book.step * i;
        attempt(extreme / (book.lowest - more));
        attempt(extreme / (book.highest + more));
    }
    for (int i = 0; i < kTurns; ++i)
        if (!attempt(best.scale)) break;
    return best;
}

// whether all weights times `inverse` are values of the book, but for rounding in float32
template <int N, class Book>
bool holds(const Group<N>& group, float inverse, const Book& book) {
    constexpr float kRounding = 1e-4f;
    for (int i = 0; i < N; i += kLanes) {
        const Four v = four(group.x + i) * inverse, off = v - book.nearest(v);
        if (sum(off * off) > kRounding * kRounding) return false;
    }
    return true;
}

}  // namespace
}  // namespace expertly
