// What happens to one row of floats: norms, gated activations, sums over slots.
//
// Sums run in 16 lanes on every instruction set, then over the lanes in order.
#pragma once

#include <limits>

#include "../kernels.h"

namespace expertly {
namespace {

constexpr int kLanes = 16;

// e^x to 2 units in the last place; below -87.3 it gives e^-87.3, above 88 e^88, of a NaN NaN
template <class I>
I_INLINE typename I::Floats exp(typename I::Floats x) {
    // a NaN comes second, which is what these give
    x = I::min(I::set(88.0f), I::max(I::set(-87.3f), x));
    const auto n = I::round(I::mul(x, I::set(1.44269504f)));
    const auto turns = I::negate(I::to_float(n));
    // ln 2 in two parts, so that the rest is exact
    auto r = I::fma(turns, I::set(0.693359375f), x);
    r = I::fma(turns, I::set(-2.12194440e-4f), r);
    auto p = I::set(1.9875691500e-4f);
    p = I::fma(p, r, I::set(1.3981999507e-3f));
    p = I::fma(p, r, I::set(8.3334519073e-3f));
    p = I::fma(p, r, I::set(4.1665795894e-2f));
    p = I::fma(p, r, I::set(1.6666665459e-1f));
    p = I::fma(p, r, I::set(5.0000001201e-1f));
    p = I::add(I::fma(p, I::mul(r, r), r), I::set(1.0f));
    return I::mul(p, I::power_of_two(n));
}

// sum over i of a(i), in 16 lanes; `tail` pads the last ones with zeros
template <class I, class Load>
I_INLINE float sum_lanes(int64_t n, const Load& load) {
    constexpr int parts = kLanes / I::lanes;
    typename I::Floats acc[parts];
    for (int p = 0; p < parts; ++p) acc[p] = I::zero_float();
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes)
        for (int p = 0; p < parts; ++p) acc[p] = load(acc[p], i + p * I::lanes);
    float lane[kLanes];
    for (int p = 0; p < parts; ++p) I::store(lane + p * I::lanes, acc[p]);
    float sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) sum += lane[i];
    return sum;
}

template <class I>
float dot_floats(const float* a, const float* b, int64_t n) {
    float sum = sum_lanes<I>(n, [&](typename I::Floats acc, int64_t i) {
        return I::fma(I::load_float(a + i), I::load_float(b + i), acc);
    });
    for (int64_t i = n / kLanes * kLanes; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// y = x * by * weight, elementwise (y may be x); centre is taken off x first
template <class I>
void scale_row(const float* x, float centre, float by, const float* weight, const float* bias,
               int64_t n, float* y) {
    for (int64_t i = 0; i < n; ++i) {
        const float scaled = (x[i] - centre) * by * weight[i];
        y[i] = bias ? scaled + bias[i] : scaled;
    }
}

// h = act(gate) * (up + shift) with act(g) = g / (1 + e^(-alpha g)), clamped first: config.Glu
template <class I>
void silu_glu(const float* gate, const float* up, const GluRule& rule, int64_t n, float* h) {
    const auto one = I::set(1.0f), minus_alpha = I::set(-rule.alpha), shift = I::set(rule.shift);
    const auto limit = I::set(rule.limit), low = I::set(-rule.limit);
    const auto each = [&](const float* g, const float* u, float* to) {
        // a NaN comes second, which is what these give
        const auto gated = I::min(limit, I::load_float(g));
        const auto lifted = I::max(low, I::min(limit, I::load_float(u)));
        const auto share = I::div(gated, I::add(one, exp<I>(I::mul(gated, minus_alpha))));
        I::store(to, I::mul(share, I::add(lifted, shift)));
    };
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes) each(gate + i, up + i, h + i);
    if (whole == n) return;
    float g[I::lanes] = {}, u[I::lanes] = {}, to[I::lanes];
    for (int64_t i = whole; i < n; ++i) g[i - whole] = gate[i], u[i - whole] = up[i];
    each(g, u, to);
    for (int64_t i = whole; i < n; ++i) h[i] = to[i - whole];
}

// with act'(g) = s * (1 + alpha * g * (1 - s)), s = 1 / (1 + e^(-alpha g)); what is clamped has no
// gradient. grad_gate, grad_up and h may be gate, up and grad_h
template <class I>
void silu_glu_back(const float* gate, const float* up, const float* grad_h, const GluRule& rule,
                   int64_t n, float* grad_gate, float* grad_up, float* h) {
    const auto one = I::set(1.0f), alpha = I::set(rule.alpha), shift = I::set(rule.shift);
    const auto limit = I::set(rule.limit), low = I::set(-rule.limit);
    const bool is_clamped = rule.limit < std::numeric_limits<float>::infinity();
    const auto each = [&](const float* g, const float* u, const float* d, float* to_g, float* to_u,
                          float* to_h) {
        float was_gate[I::lanes], was_up[I::lanes];
        const auto raw_gate = I::load_float(g), raw_up = I::load_float(u);
        if (is_clamped) I::store(was_gate, raw_gate), I::store(was_up, raw_up);
        const auto gated = I::min(limit, raw_gate);
        const auto lifted = I::add(I::max(low, I::min(limit, raw_up)), shift);
        const auto grad = I::load_float(d), scaled = I::mul(gated, alpha);
        const auto s = I::div(one, I::add(one, exp<I>(I::negate(scaled))));
        const auto acted = I::mul(gated, s);
        const auto slope = I::mul(s, I::fma(scaled, I::add(one, I::negate(s)), one));
        I::store(to_g, I::mul(I::mul(grad, lifted), slope));
        I::store(to_u, I::mul(grad, acted));
        I::store(to_h, I::mul(acted, lifted));
        if (!is_clamped) return;
        for (int i = 0; i < I::lanes; ++i) {
            if (was_gate[i] > rule.limit) to_g[i] = 0.0f;
            if (was_up[i] > rule.limit || was_up[i] < -rule.limit) to_u[i] = 0.0f;
        }
    };
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes)
        each(gate + i, up + i, grad_h + i, grad_gate + i, grad_up + i, h + i);
    if (whole == n) return;
    float part[3][I::lanes] = {};
    for (int64_t i = whole; i < n; ++i)
        part[0][i - whole] = gate[i], part[1][i - whole] = up[i], part[2][i - whole] = grad_h[i];
    each(part[0], part[1], part[2], part[0], part[1], part[2]);
    for (int64_t i = whole; i < n; ++i) {
        grad_gate[i] = part[0][i - whole], grad_up[i] = part[1][i - whole];
        h[i] = part[2][i - whole];
    }
}

// y += by * x
template <class I>
void add_scaled(const float* x, float by, int64_t n, float* y) {
    const auto factor = I::set(by);
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes)
        I::store(y + i, I::fma(I::load_float(x + i), factor, I::load_float(y + i)));
    for (int64_t i = whole; i < n; ++i) y[i] = __builtin_fmaf(x[i], by, y[i]);
}

}  // namespace
}  // namespace expertly
