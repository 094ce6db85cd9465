// A group of weights, and the loops over it.
#pragma once

#include <cstring>

namespace expertly {
namespace {

// gcc and clang put these into whatever vectors a processor has
using Four = float __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline Four four(const float* p) {
    Four v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}

inline Four all(float v) { return Four{v, v, v, v}; }

inline void put(float* p, Four v) { std::memcpy(p, &v, sizeof(v)); }

inline float sum(Four v) { return (v[0] + v[2]) + (v[1] + v[3]); }

// to nearest, ties to even, where |v| < 2^22
template <class T>
T rounded(T v) {
    return (v + 12582912.0f) - 12582912.0f;
}

template <class T>
T clamped(T v, T least, T most) {
    v = v > least ? v : least;
    return v < most ? v : most;
}

// N neighbouring weights and what a squared error in each costs (above 0)
template <int N>
struct Group {
    float x[N];  // weights less `base`
    float w[N], wx[N];
    float base;       // 0 or the least weight: sums of what is left cancel less
    float least, most;  // of x
    float sum_w, sum_wx;

    void fill(const float* weights, const float* costs, bool is_based) {
        least = most = weights[0];
        for (int i = 1; i < N; ++i) {
            least = weights[i] < least ? weights[i] : least;
            most = weights[i] > most ? weights[i] : most;
        }
        base = is_based ? least : 0;
        least -= base, most -= base;
        Four ones{}, firsts{};
        for (int i = 0; i < N; i += kLanes) {
            const Four xs = four(weights + i) - base, ws = four(costs + i), products = ws * xs;
            put(x + i, xs), put(w + i, ws), put(wx + i, products);
            ones += ws, firsts += products;
        }
        sum_w = sum(ones), sum_wx = sum(firsts);
    }
};

// costs of what codes q stand for: sums of w q, w q q and w q x
struct Sums {
    float q, qq, qx;
};

template <int N>
Sums sums_of(const Group<N>& group, const float* q) {
    Four a{}, b{}, c{};
    for (int i = 0; i < N; i += kLanes) {
        const Four qs = four(q + i), wq = four(group.w + i) * qs;
        a += wq, b += wq * qs, c += four(group.wx + i) * qs;
    }
    return {sum(a), sum(b), sum(c)};
}

// what it costs that x is taken for scale * q - min
template <int N>
float error_of(const Group<N>& group, const float* q, float scale, float min) {
    Four error{};
    for (int i = 0; i < N; i += kLanes) {
        const Four off = scale * four(q + i) - min - four(group.x + i);
        error += four(group.w + i) * off * off;
    }
    return sum(error);
}

// 0 for 0; bounded, so that products with weights of size about 1 stay finite
inline float inverse_of(float scale) {
    return scale != 0 ? clamped(1 / scale, -1e30f, 1e30f) : 0;
}

}  // namespace
}  // namespace expertly
