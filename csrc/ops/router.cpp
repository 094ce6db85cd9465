#include "router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace expertly {

namespace {

constexpr float kTaken = std::numeric_limits<float>::quiet_NaN();

// of those that are not taken; there is one
int32_t largest(const float* values, int64_t n) {
    int64_t best = -1;
    for (int64_t e = 0; e < n; ++e)
        if (!std::isnan(values[e]) && (best < 0 || values[e] > values[best])) best = e;
    return static_cast<int32_t>(best);
}

// whether there is an order among them, and their softmax is one
bool are_sound(const float* logits, int64_t n) {
    return std::none_of(logits, logits + n, [](float l) { return std::isnan(l); }) &&
           std::isfinite(*std::max_element(logits, logits + n));
}

void softmax(const float* logits, int64_t n, float* probs) {
    const float top = *std::max_element(logits, logits + n);
    float sum = 0.0f;
    for (int64_t e = 0; e < n; ++e) sum += probs[e] = std::exp(logits[e] - top);
    for (int64_t e = 0; e < n; ++e) probs[e] /= sum;
}

void normalise(float p, int64_t n, float* weights) {
    float sum = 0.0f;
    for (int64_t k = 0; k < n; ++k) sum += p == 1.0f ? weights[k] : std::pow(weights[k], p);
    const float norm = p == 1.0f ? sum : std::pow(sum, 1.0f / p);
    for (int64_t k = 0; k < n; ++k) weights[k] /= norm;
}

void by_softmax(const float* logits, int64_t num_experts, int64_t num_chosen, float norm_p,
                float* probs, int32_t* ids, float* weights) {
    softmax(logits, num_experts, probs);
    for (int64_t k = 0; k < num_chosen; ++k) {
        ids[k] = largest(probs, num_experts);
        weights[k] = probs[ids[k]];
        probs[ids[k]] = kTaken;
    }
    if (norm_p > 0.0f) normalise(norm_p, num_chosen, weights);
}

// the weight of the largest logit left: a softmax over those left within 2 * jitter of it,
// the gap measured from the logits as they were
float masked_share(const float* logits, const float* left, int64_t n, int32_t top, float jitter) {
    float sum = 0.0f;
    for (int64_t e = 0; e < n; ++e) {
        const float gap = (left[top] - logits[e]) / std::max(std::fabs(logits[e]), left[top]);
        if (!std::isnan(left[e]) && !(gap > 2 * jitter)) sum += std::exp(left[e] - left[top]);
    }
    return 1.0f / sum;
}

void by_sparsemixer(const float* logits, int64_t num_experts, int64_t num_chosen, float jitter,
                    float* left, int32_t* ids, float* weights) {
    std::copy(logits, logits + num_experts, left);
    for (int64_t k = 0; k < num_chosen; ++k) {
        ids[k] = largest(left, num_experts);
        weights[k] = masked_share(logits, left, num_experts, ids[k], jitter);
        left[ids[k]] = kTaken;
    }
}

}  // namespace

void choose(const float* logits, int64_t num_experts, int64_t num_chosen, const RouterRule& rule,
            float* probs, int32_t* ids, float* weights) {
    if (!are_sound(logits, num_experts)) {
        // nothing can be said of this token; its experts are different ones all the same
        std::iota(ids, ids + num_chosen, 0);
        std::fill(weights, weights + num_chosen, kTaken);
        return;
    }
    if (rule.kind == RouterRule::sparsemixer)
        return by_sparsemixer(logits, num_experts, num_chosen, rule.jitter, probs, ids, weights);
    by_softmax(logits, num_experts, num_chosen, rule.norm_p, probs, ids, weights);
}

}  // namespace expertly
