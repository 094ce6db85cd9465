#include "glu.h"

#include <algorithm>
#include <cmath>

namespace expertly {

namespace {

float act(GluRule::Act kind, float g) {
    switch (kind) {
        case GluRule::gelu: return 0.5f * g * (1.0f + std::erf(g * 0.70710678f));
        case GluRule::gelu_tanh:
            return 0.5f * g * (1.0f + std::tanh(0.79788456f * (g + 0.044715f * g * g * g)));
        default: return g < 0.0f ? 0.0f : g;  // NaN stays
    }
}

float slope(GluRule::Act kind, float g) {
    constexpr float kDensity = 0.39894228f;  // of the normal distribution, at 0
    if (kind == GluRule::gelu)
        return 0.5f * (1.0f + std::erf(g * 0.70710678f)) + g * kDensity * std::exp(-0.5f * g * g);
    if (kind == GluRule::relu) return g > 0.0f ? 1.0f : 0.0f;
    const float t = std::tanh(0.79788456f * (g + 0.044715f * g * g * g));
    return 0.5f * (1.0f + t) +
           0.5f * g * (1.0f - t * t) * 0.79788456f * (1.0f + 3.0f * 0.044715f * g * g);
}

}  // namespace

void glu(const Kernels& kernels, const float* gate, const float* up, const GluRule& rule,
         int64_t n, float* h) {
    if (rule.act == GluRule::silu) return kernels.silu_glu(gate, up, rule, n, h);
    for (int64_t i = 0; i < n; ++i) {
        const float g = std::min(gate[i], rule.limit);
        const float u = std::clamp(up[i], -rule.limit, rule.limit);
        h[i] = act(rule.act, g) * (u + rule.shift);
    }
}

void glu_back(const Kernels& kernels, const float* gate, const float* up, const float* grad_h,
              const GluRule& rule, int64_t n, float* grad_gate, float* grad_up, float* h) {
    if (rule.act == GluRule::silu)
        return kernels.silu_glu_back(gate, up, grad_h, rule, n, grad_gate, grad_up, h);
    for (int64_t i = 0; i < n; ++i) {
        const float g = std::min(gate[i], rule.limit), grad = grad_h[i];
        const float u = std::clamp(up[i], -rule.limit, rule.limit) + rule.shift;
        const bool has_gate = !(gate[i] > rule.limit), has_up = !(std::abs(up[i]) > rule.limit);
        const float acted = act(rule.act, g);
        grad_gate[i] = has_gate ? grad * u * slope(rule.act, g) : 0.0f;
        grad_up[i] = has_up ? grad * acted : 0.0f;
        h[i] = acted * u;
    }
}

}  // namespace expertly
