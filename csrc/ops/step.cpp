#include "step.h"

#include <algorithm>
#include <cmath>

#include "../pack.h"
#include "tiles.h"

namespace expertly {

namespace {

int64_t padded_rows(const Matrix& w) { return w.layout.tiles * kTileRows; }

void add(const std::vector<float>& bias, float* y) {
    for (size_t i = 0; i < bias.size(); ++i) y[i] += bias[i];
}

}  // namespace

// of a matrix that is next but one
void Step::foresee(const Matrix& w) {
    const Product product{&w, nullptr, 0};
    expertly::foresee(runtime_, &product, 1, span().panels());
}

void Step::begin(Tokens tokens, const PagePool& pool, const Matrix& embedding) {
    tokens_ = std::move(tokens);
    attended_ = begun_ = nullptr;
    pool_ = &pool;
    key_blocks_ = key_blocks();
    last_angle_ = *std::max_element(tokens_.angle.begin(), tokens_.angle.end());
    const int64_t T = count();
    x_ = x_room_.get<float>(T * columns_);
    normed_ = normed_room_.get<float>(T * columns_);
    runtime_.pool.run(T, [&](int64_t t) {
        unpack_row(embedding, tokens_.ids[t], x_ + t * columns_);
    });
}

void Step::attend(const Layer& layer, int64_t index, PagePool& pool, const float* cos,
                  const float* sin) {
    project(layer);
    place(layer, index, pool, cos, sin);
    const auto& shape = layer.attention.shape;
    const int64_t width = static_cast<int64_t>(shape.heads) * shape.head_size;
    mixed_ = mixed_room_.get<float>(count() * width);
    expertly::attend(runtime_, shape, qkv_, qkv_stride_, tokens_.sequence.data(),
                     tokens_.position.data(), count(), tokens_.pages.data(),
                     tokens_.pages_a_sequence, pool, index, mixed_, width);
    leave_attention(layer);
    if (layer.router) choose(layer);
    attended_ = layer.identity;
    begun_ = nullptr;
}

void Step::project(const Layer& layer) {
    const AttentionWeights& attention = layer.attention;
    Forms forms;
    for (const Matrix* w : {&attention.q, &attention.k, &attention.v}) forms.add(w->format);
    activations_.resize(count(), columns_, forms, normed_);
    const int64_t q = padded_rows(attention.q), k = padded_rows(attention.k);
    qkv_stride_ = q + k + padded_rows(attention.v);
    qkv_ = qkv_room_.get<float>(count() * qkv_stride_);
    const Product products[] = {{&attention.q, qkv_, qkv_stride_},
                                {&attention.k, qkv_ + q, qkv_stride_},
                                {&attention.v, qkv_ + q + k, qkv_stride_}};
    expertly::foresee(runtime_, products, 3, span().panels());
    for_rows(runtime_.pool, span(), [&](int64_t t) {
        float* normed = normed_ + t * columns_;
        normalise(runtime_.kernels, layer.attention_norm, x_ + t * columns_, normed);
        activations_.fill(runtime_.kernels, span(), t, normed);
    });
    foresee(attention.o);
    multiply(runtime_, products, 3, activations_, span());
}

void Step::place(const Layer& layer, int64_t index, PagePool& pool, const float* cos,
                 const float* sin) {
    const AttentionWeights& attention = layer.attention;
    const int64_t q = padded_rows(attention.q), k = padded_rows(attention.k);
    const int64_t half = attention.shape.head_size / 2;
    const auto place_token = [&](int64_t t) {
        float* q_at = qkv_ + t * qkv_stride_;
        float* k_at = q_at + q;
        float* v_at = k_at + k;
        add(attention.q_bias, q_at), add(attention.k_bias, k_at), add(attention.v_bias, v_at);
        const int64_t angle = tokens_.angle[t] * half;
        turn_heads(runtime_.kernels, attention.heads, attention.shape, q_at, k_at, v_at,
                   cos + angle, sin + angle);
        const int32_t position = tokens_.position[t];
        const int64_t page = tokens_.sequence[t] * tokens_.pages_a_sequence + position / kPageSize;
        append(runtime_.kernels, pool, index, tokens_.pages[page], position % kPageSize, k_at,
               v_at);
    };
    runtime_.pool.run(static_cast<int64_t>(key_blocks_.size()) - 1, [&](int64_t i) {
        for (int64_t t = key_blocks_[i]; t < key_blocks_[i + 1]; ++t) place_token(t);
    });
}

// where runs of tokens begin whose keys lie on the same cache lines, and the end: threads that
// write to one line wait for each other
std::vector<int64_t> Step::key_blocks() const {
    std::vector<int64_t> runs;
    for (int64_t t = 0; t < count(); ++t) {
        const bool is_same = t > 0 && tokens_.sequence[t] == tokens_.sequence[t - 1] &&
                             tokens_.position[t] / kKeyBlock == tokens_.position[t - 1] / kKeyBlock;
        if (!is_same) runs.push_back(t);
    }
    runs.push_back(count());
    return runs;
}

void Step::leave_attention(const Layer& layer) {
    const Matrix& w = layer.attention.o;
    const int64_t width = w.layout.columns, stride = padded_rows(w);
    Forms forms;
    forms.add(w.format);
    activations_.resize(count(), width, forms, mixed_);
    for_rows(runtime_.pool, span(), [&](int64_t t) {
        activations_.fill(runtime_.kernels, span(), t, mixed_ + t * width);
    });
    float* out = out_room_.get<float>(count() * stride);
    const Product product{&w, out, stride};
    if (layer.router) foresee(layer.router->w);
    multiply(runtime_, &product, 1, activations_, span());
    runtime_.pool.run(count(), [&](int64_t t) {
        float* x = x_ + t * columns_;
        add(layer.attention.o_bias, out + t * stride);
        for (int64_t c = 0; c < columns_; ++c) x[c] += out[t * stride + c];
        normalise(runtime_.kernels, layer.feed_forward_norm, x, normed_ + t * columns_);
    });
}

void Step::choose(const Layer& layer) {
    const RouterWeights& router = *layer.router;
    const int64_t E = router.w.layout.rows, K = router.num_chosen;
    router_stride_ = padded_rows(router.w);
    float* logits = router_room_.get<float>(count() * router_stride_);
    const Product product{&router.w, logits, router_stride_};
    Forms forms;
    forms.add(router.w.format);
    activations_.resize(count(), columns_, forms, normed_);
    multiply(runtime_, &product, 1, activations_, span());
    ids_.resize(static_cast<size_t>(count() * K));
    weights_.resize(ids_.size());
    probs_.resize(static_cast<size_t>(count() * E));
    runtime_.pool.run(count(), [&](int64_t t) {
        add(router.bias, logits + t * router_stride_);
        expertly::choose(logits + t * router_stride_, E, K, router.rule, probs_.data() + t * E,
                         ids_.data() + t * K, weights_.data() + t * K);
    });
    expertly::foresee(runtime_.pool, layer.experts, layer.shared.get(),
                      {ids_.data(), weights_.data(), K}, count());
    router_logits_ = logits;
}

std::vector<int32_t> Step::expected(const Layer& later) {
    const RouterWeights& router = *later.router;
    const int64_t E = router.w.layout.rows, K = router.num_chosen;
    const int64_t stride = padded_rows(router.w), numbers = count() * columns_;
    float* normed = expected_room_.get<float>(numbers + count() * (stride + E + K));
    float *logits = normed + numbers, *probs = logits + count() * stride;
    float* weights = probs + count() * E;
    Forms forms;
    forms.add(router.w.format);
    expected_activations_.resize(count(), columns_, forms, normed);
    for_rows(runtime_.pool, span(), [&](int64_t t) {
        normalise(runtime_.kernels, later.feed_forward_norm, x_ + t * columns_,
                  normed + t * columns_);
        expected_activations_.fill(runtime_.kernels, span(), t, normed + t * columns_);
    });
    const Product product{&router.w, logits, stride};
    multiply(runtime_, &product, 1, expected_activations_, span());
    std::vector<int32_t> ids(static_cast<size_t>(count() * K));
    for (int64_t t = 0; t < count(); ++t) {
        add(router.bias, logits + t * stride);
        expertly::choose(logits + t * stride, E, K, router.rule, probs + t * E, ids.data() + t * K,
                         weights + t * K);
    }
    return ids;
}

void Step::set_choice(const int32_t* ids, const float* weights) {
    std::copy(ids, ids + ids_.size(), ids_.begin());
    std::copy(weights, weights + weights_.size(), weights_.begin());
    // what was foreseen is of the router's choice
    runtime_.pool.foresight().forget();
}

// the shared expert's weight of each token
void Step::share(const Layer& layer) {
    shares_.assign(static_cast<size_t>(count()), 1.0f);
    const int64_t n = static_cast<int64_t>(layer.shared_gate.size());
    if (n == 0) return;
    runtime_.pool.run(count(), [&](int64_t t) {
        const float z = runtime_.kernels.dot(normed_ + t * columns_, layer.shared_gate.data(), n);
        shares_[t] = 1.0f / (1.0f + std::exp(-z));
    });
}

BankWork& Step::work(int index, const Bank& bank, const int32_t* ids, const float* weights,
                     int64_t num_chosen) {
    works_[index].bank = &bank;
    works_[index].choice = {ids, weights, num_chosen};
    return works_[index];
}

int Step::make_works(const Layer& layer) {
    zeros_.assign(static_cast<size_t>(count()), 0);
    share(layer);
    int works = 1;
    if (layer.router) work(0, layer.experts, ids_.data(), weights_.data(), layer.router->num_chosen);
    else work(0, layer.experts, zeros_.data(), shares_.data(), 1);
    if (layer.shared) work(works++, *layer.shared, zeros_.data(), shares_.data(), 1);
    return works;
}

void Step::feed_forward(const Layer& layer) {
    const int works = make_works(layer);
    expertly::feed_forward(runtime_, works_, works, normed_, count(), x_, columns_);
}

void Step::begin_experts(const Layer& layer) {
    const int works = make_works(layer);
    gather(runtime_, works_, works, normed_, count(), columns_);
    if (layer.shared) compute(runtime_, works_[1], {0});
    begun_ = layer.identity;
    is_given_.assign(layer.experts.experts.size(), false);
    given_rows_ = 0;
}

bool Step::has_given(const std::vector<int32_t>& experts) const {
    return std::any_of(experts.begin(), experts.end(), [this](int32_t e) { return is_given_[e]; });
}

void Step::note_given(const std::vector<int32_t>& experts) {
    for (const int32_t expert : experts) is_given_[expert] = true;
    given_rows_ += num_rows(experts);
}

void Step::add_experts(const Layer&, const std::vector<int32_t>& experts) {
    compute(runtime_, works_[0], experts);
    note_given(experts);
}

void Step::end_experts(const Layer& layer) {
    combine(runtime_, works_, layer.shared ? 2 : 1, count(), x_, columns_);
    begun_ = nullptr;
}

int64_t Step::num_rows(const std::vector<int32_t>& experts) const {
    return expertly::num_rows(works_[0], experts);
}

void Step::rows_of(const std::vector<int32_t>& experts, float* x) const {
    copy_rows(works_[0], experts, normed_, columns_, x);
}

void Step::put_rows(const std::vector<int32_t>& experts, const float* y) {
    put_results(works_[0], experts, y, columns_);
    note_given(experts);
}

void Step::logits(const Norm& norm, const Matrix& head, const float* bias,
                  const std::vector<int32_t>& rows, float* out, int64_t stride) {
    const int64_t n = static_cast<int64_t>(rows.size()), V = head.layout.rows;
    Forms forms;
    forms.add(head.format);
    const Span chosen(0, n, runtime_.kernels.max_rows);
    activations_.resize(n, columns_, forms, normed_);
    for_rows(runtime_.pool, chosen, [&](int64_t i) {
        float* normed = normed_ + i * columns_;
        normalise(runtime_.kernels, norm, x_ + rows[i] * columns_, normed);
        activations_.fill(runtime_.kernels, chosen, i, normed);
    });
    const bool fits = stride >= padded_rows(head);
    const int64_t padded = fits ? stride : padded_rows(head);
    float* to = fits ? out : out_room_.get<float>(n * padded);
    const Product product{&head, to, padded};
    multiply(runtime_, &product, 1, activations_, chosen);
    for (int64_t i = 0; i < n; ++i) {
        if (!fits) std::copy(to + i * padded, to + i * padded + V, out + i * stride);
        for (int64_t v = 0; bias && v < V; ++v) out[i * stride + v] += bias[v];
    }
}

}  // namespace expertly
