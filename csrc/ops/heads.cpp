#include "heads.h"

#include <algorithm>
#include <cmath>

namespace expertly {

namespace {

void rms_norm(const Kernels& kernels, const std::vector<float>& weight, float eps, float* x) {
    const int64_t n = static_cast<int64_t>(weight.size());
    const float square = kernels.dot(x, x, n) / static_cast<float>(n);
    kernels.scale_row(x, 0.0f, 1.0f / std::sqrt(square + eps), weight.data(), nullptr, n, x);
}

void clip_row(float clip, int64_t n, float* x) {
    if (clip <= 0.0f) return;
    for (int64_t i = 0; i < n; ++i) x[i] = std::clamp(x[i], -clip, clip);
}

void norm_row(const Kernels& kernels, const HeadRule& rule, const std::vector<float>& weight,
              int heads, int head_size, float* x) {
    const int64_t n = int64_t{heads} * head_size;
    const bool has_norm = !weight.empty();
    if (has_norm && !rule.is_head_norm) rms_norm(kernels, weight, rule.eps, x);
    clip_row(rule.clip, n, x);
    if (!has_norm || !rule.is_head_norm) return;
    for (int h = 0; h < heads; ++h) rms_norm(kernels, weight, rule.eps, x + h * head_size);
}

}  // namespace

void turn_heads(const Kernels& kernels, const HeadRule& rule, const AttentionShape& shape, float* q,
                float* k, float* v, const float* cos, const float* sin) {
    const int C = shape.head_size;
    norm_row(kernels, rule, rule.q_norm, shape.heads, C, q);
    norm_row(kernels, rule, rule.k_norm, shape.groups, C, k);
    clip_row(rule.clip, int64_t{shape.groups} * C, v);
    const auto rotate = kernels.attention.rotate;
    for (int h = 0; h < shape.heads; ++h) rotate(cos, sin, C / 2, q + h * C);
    for (int g = 0; g < shape.groups; ++g) rotate(cos, sin, C / 2, k + g * C);
}

}  // namespace expertly
