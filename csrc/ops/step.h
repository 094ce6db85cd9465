// One forward pass over T tokens, layer by layer, in two calls a layer: up to the router's
// choice, and the experts. What lies between them belongs to the caller.
#pragma once

#include <vector>

#include "layer.h"
#include "pages.h"
#include "product.h"

namespace expertly {

// what is known of the T tokens of a pass
struct Tokens {
    std::vector<int32_t> ids;
    std::vector<int32_t> sequence;  // which sequence of the cache
    std::vector<int32_t> position;  // place in its sequence
    std::vector<int32_t> angle;     // row of the tables of cos and sin
    std::vector<int32_t> pages;     // [sequences][pages_a_sequence], page ids of the cache
    int64_t pages_a_sequence = 0;

    int64_t count() const { return static_cast<int64_t>(ids.size()); }
};

class Step {
public:
    Step(Runtime& runtime, int64_t columns) : runtime_(runtime), columns_(columns) {}

    // x = the tokens' rows of the embedding; the pages are `pool`'s
    void begin(Tokens tokens, const PagePool& pool, const Matrix& embedding);
    // x += attention(norm(x)), keys and values added to `pool`; then norm and, in a mixture, the
    // choice. cos and sin: [angles][head_size / 2]
    void attend(const Layer& layer, int64_t index, PagePool& pool, const float* cos,
                const float* sin);
    // another choice in place of the router's, until the next layer: [T][K] ids and weights
    void set_choice(const int32_t* ids, const float* weights);
    // [T][K]: what a later mixture would choose if nothing were added to x before it
    std::vector<int32_t> expected(const Layer& later);
    // x += feed-forward(what `attend` normed), by the choice as it is now
    void feed_forward(const Layer& layer);
    // the same for a mixture whose experts come one after another: begin (which computes the
    // shared expert), some experts at a time until each chosen one was given once, end
    void begin_experts(const Layer& layer);
    void add_experts(const Layer& layer, const std::vector<int32_t>& experts);
    void end_experts(const Layer& layer);
    // in place of `add_experts`, for experts that are computed elsewhere: their normed rows, expert
    // after expert, [rows][columns], and what came of those, without the last bias
    int64_t num_rows(const std::vector<int32_t>& experts) const;
    void rows_of(const std::vector<int32_t>& experts, float* x) const;
    void put_rows(const std::vector<int32_t>& experts, const float* y);
    bool has_attended(const Layer& layer) const { return attended_ == layer.identity; }
    bool has_begun(const Layer& layer) const { return begun_ == layer.identity; }
    // of the begun mixture: whether one of some experts was given, and whether all chosen ones were
    bool has_given(const std::vector<int32_t>& experts) const;
    bool has_all() const { return given_rows_ == works_[0].rows.count(); }
    // logits [rows][head's rows] of some tokens; `stride` floats a row
    void logits(const Norm& norm, const Matrix& head, const float* bias,
                const std::vector<int32_t>& rows, float* out, int64_t stride);

    int64_t count() const { return tokens_.count(); }
    int64_t columns() const { return columns_; }
    bool is_of(const PagePool& pool) const { return pool_ == &pool; }
    int64_t last_angle() const { return last_angle_; }
    // of the last mixture: [T][K], [T][K], [T][logits_stride]
    const int32_t* ids() const { return ids_.data(); }
    const float* weights() const { return weights_.data(); }
    const float* router_logits() const { return router_logits_; }
    int64_t router_stride() const { return router_stride_; }

private:
    void foresee(const Matrix& w);
    Span span() const { return {0, count(), runtime_.kernels.max_rows}; }
    void project(const Layer& layer);
    std::vector<int64_t> key_blocks() const;
    void place(const Layer& layer, int64_t index, PagePool& pool, const float* cos,
               const float* sin);
    void leave_attention(const Layer& layer);
    void choose(const Layer& layer);
    void share(const Layer& layer);
    void note_given(const std::vector<int32_t>& experts);
    int make_works(const Layer& layer);
    BankWork& work(int index, const Bank& bank, const int32_t* ids, const float* weights,
                   int64_t num_chosen);

    Runtime& runtime_;
    int64_t columns_;
    Tokens tokens_;
    std::vector<int64_t> key_blocks_;
    const PagePool* pool_ = nullptr;  // compared, never followed
    int64_t last_angle_ = 0;
    float* x_ = nullptr;       // [T][columns]
    float* normed_ = nullptr;  // [T][columns]
    float* qkv_ = nullptr;     // [T][q, k, v, each padded to whole tiles]
    float* mixed_ = nullptr;   // [T][heads * head_size]
    int64_t qkv_stride_ = 0;
    const float* router_logits_ = nullptr;
    int64_t router_stride_ = 0;
    std::vector<int32_t> ids_, zeros_;
    std::vector<float> weights_, shares_, probs_;
    ActivationBuffer activations_, expected_activations_;
    BankWork works_[2];
    std::shared_ptr<const int> attended_, begun_;  // layers
    std::vector<bool> is_given_;  // of the begun mixture's experts
    int64_t given_rows_ = 0;
    Scratch x_room_, normed_room_, qkv_room_, mixed_room_, out_room_, router_room_, expected_room_;
};

}  // namespace expertly
