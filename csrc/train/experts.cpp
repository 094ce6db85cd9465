#include "experts.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "../half.h"
#include "../ops/glu.h"
#include "panels.h"

namespace expertly {

namespace {

// of rows of one expert that are taken at once, about so many bytes of floats
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kAlignment = 64;
constexpr int64_t kTokensAnItem = 32;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// hands out parts of a piece of scratch memory
class Parts {
public:
    explicit Parts(uint8_t* at) : at_(at) {}

    template <class T>
    T* take(int64_t count) {
        T* part = reinterpret_cast<T*>(at_);
        at_ += aligned(count * static_cast<int64_t>(sizeof(T)));
        return part;
    }

private:
    uint8_t* at_;
};

// numbers as floats: where they lie, or as a copy in `spare`
const float* as_floats(const Gemm& gemm, const Reals& from, int64_t n, float* spare) {
    if (from.type == Real::f32) return static_cast<const float*>(from.data);
    gemm.widen(static_cast<const uint16_t*>(from.data), n, spare);
    return spare;
}

// where floats are to be computed that go to `to`: there, or in `spare`
float* room_for(const Reals& to, float* spare) {
    return to.type == Real::f32 ? static_cast<float*>(to.data) : spare;
}

// what was computed in such a room, to its place
void put(const Gemm& gemm, const float* room, int64_t n, const Reals& to) {
    if (to.type != Real::f32) gemm.narrow(room, n, static_cast<uint16_t*>(to.data));
}

// rows of one expert, as many as are taken at once
struct Chunk {
    int64_t expert, row, count;
};

std::vector<Chunk> chunks_of(const Routed& routed, int64_t most) {
    std::vector<Chunk> chunks;
    for (int64_t e = 0; e < routed.shape.experts; ++e) {
        const int64_t end = routed.first_E[static_cast<size_t>(e) + 1];
        for (int64_t row = routed.first_E[static_cast<size_t>(e)]; row < end; row += most)
            chunks.push_back({e, row, std::min(most, end - row)});
    }
    // the largest first, so that all threads end together
    std::stable_sort(chunks.begin(), chunks.end(),
                     [](const Chunk& a, const Chunk& b) { return a.count > b.count; });
    return chunks;
}

// what the steps of both passes share
class Pass {
public:
    Pass(Team& team, const Kernels& kernels, const ExpertPass& pass)
        : team_(team), kernels_(kernels), pass_(pass), routed_(pass.routed),
          s_(pass.routed.shape), gemm_(kernels.gemm[static_cast<int>(pass.factors)]) {
        const int64_t widest = std::max(s_.width, 2 * s_.size);
        const int64_t fitting = kChunkBytes / (widest * 4) / gemm_.rows * gemm_.rows;
        most_rows_ = std::max<int64_t>(4 * gemm_.rows, std::min<int64_t>(fitting, 20 * gemm_.rows));
    }

protected:
    View tokens(const Reals& x_TD) const {
        return {x_TD.data, x_TD.type, s_.width, routed_.token_R.data()};
    }
    // of an expert, in a stack of matrices
    View matrix(const Reals& stack, int64_t expert, int64_t columns) const {
        return {stack.at(expert * s_.size * s_.width), stack.type, columns};
    }
    static View view(const Reals& rows, int64_t columns) {
        return {rows.data, rows.type, columns};
    }
    int64_t room_of(int64_t m, int64_t steps) const {
        return panels_of(gemm_, m) * gemm_.panel_bytes(gemm_.rows, steps);
    }

    // the expert of the item that this thread is likely to get next
    int64_t after(const std::vector<Chunk>& chunks, int64_t item) const {
        const size_t next = static_cast<size_t>(item + team_.threads());
        return chunks[next < chunks.size() ? next : static_cast<size_t>(item)].expert;
    }

    // a matrix, while so many rows and columns of answers are computed
    Ahead ahead(const Reals& stack, int64_t expert, int64_t m, int64_t n) const {
        const int64_t numbers = s_.size * s_.width;
        const int64_t products = panels_of(gemm_, m) * ((n + gemm_.columns - 1) / gemm_.columns);
        return {stack.at(expert * numbers), numbers * size_of(stack.type), products};
    }

    int64_t num_spans() const { return (s_.tokens + kTokensAnItem - 1) / kTokensAnItem; }

    // y_TD[t] = sum over slots of weight * rows[place], for a span of tokens; weights may be none
    void add_slots(int64_t span, int member, const Reals& rows_RD, const float* weight_TK,
                   const Reals& y_TD) const {
        const int64_t D = s_.width, K = s_.slots;
        Parts parts(team_.scratch(member).get<uint8_t>(2 * aligned(D * 4)));
        float *spare = parts.take<float>(D), *row = parts.take<float>(D);
        const int64_t end = std::min(s_.tokens, (span + 1) * kTokensAnItem);
        for (int64_t t = span * kTokensAnItem; t < end; ++t) {
            float* sum = room_for(y_TD.from(t * D), spare);
            std::memset(sum, 0, static_cast<size_t>(D) * sizeof(float));
            for (int64_t k = t * K; k < (t + 1) * K; ++k) {
                const int64_t place = routed_.place_TK[static_cast<size_t>(k)];
                if (place < 0) continue;
                const float* from = as_floats(gemm_, rows_RD.from(place * D), D, row);
                kernels_.add_scaled(from, weight_TK ? weight_TK[k] : 1.0f, D, sum);
            }
            put(gemm_, sum, D, y_TD.from(t * D));
        }
    }

    Team& team_;
    const Kernels& kernels_;
    const ExpertPass& pass_;
    const Routed& routed_;
    const Shape& s_;
    const Gemm& gemm_;
    int64_t most_rows_;
};

class Forward : Pass {
public:
    using Pass::Pass;

    void run(Rooms& rooms, const Reals& gate_up, const Reals& y_TD) {
        const Reals rows{rooms.rows.get<float>(s_.rows * s_.width), pass_.factors};
        const auto chunks = chunks_of(routed_, most_rows_);
        team_.run(static_cast<int64_t>(chunks.size()), [&](int member, int64_t item) {
            compute(chunks[static_cast<size_t>(item)], after(chunks, item), member, gate_up, rows);
        });
        team_.run(num_spans(), [&](int member, int64_t item) {
            add_slots(item, member, rows, pass_.weight_TK, y_TD);
        });
    }

private:
    void compute(const Chunk& chunk, int64_t next, int member, const Reals& gate_up,
                 const Reals& rows) const {
        const int64_t D = s_.width, F = s_.size, m = chunk.count, widest = std::max(D, F);
        const int64_t a_bytes = room_of(m, widest);
        const int64_t b_bytes = gemm_.panel_bytes(gemm_.columns, widest);
        Parts parts(team_.scratch(member).get<uint8_t>(aligned(a_bytes) + aligned(b_bytes) +
                                                       aligned(m * F * 4) + aligned(3 * F * 4)));
        uint8_t *a = parts.take<uint8_t>(a_bytes), *b = parts.take<uint8_t>(b_bytes);
        const Reals h{parts.take<float>(m * F), pass_.factors};
        float* spare = parts.take<float>(3 * F);

        const ExpertWeights& w = pass_.weights;
        const Reals inner = gate_up.from(chunk.row * 2 * F);
        const Left x(gemm_, {tokens(pass_.x_TD), false, chunk.row}, m, 0, D, a);
        const Pair gate{x, across(w.gate_EFD, chunk, D)}, up{x, across(w.up_EFD, chunk, D)};
        multiply(gemm_, &gate, 1, m, F, b, inner, 2 * F, ahead(w.up_EFD, chunk.expert, m, F));
        multiply(gemm_, &up, 1, m, F, b, inner.from(F), 2 * F,
                 ahead(w.down_EDF, chunk.expert, m, F));
        for (int64_t r = 0; r < m; ++r) through_glu(inner.from(r * 2 * F), h.from(r * F), spare);
        const Left hidden(gemm_, {view(h, F), false, 0}, m, 0, F, a);
        const Pair down{hidden, across(w.down_EDF, chunk, F)};
        multiply(gemm_, &down, 1, m, D, b, rows.from(chunk.row * D), D,
                 ahead(w.gate_EFD, next, m, D));
    }

    void through_glu(const Reals& inner, const Reals& h, float* spare) const {
        const int64_t F = s_.size;
        const float* gate = as_floats(gemm_, inner, 2 * F, spare);
        float* to = room_for(h, spare + 2 * F);
        glu(kernels_, gate, gate + F, pass_.rule, F, to);
        put(gemm_, to, F, h);
    }

    Factor across(const Reals& stack, const Chunk& chunk, int64_t columns) const {
        return {matrix(stack, chunk.expert, columns), false, 0};
    }
};

class Backward : Pass {
public:
    Backward(Team& team, const Kernels& kernels, const ExpertPass& pass, const Reals& gate_up,
             const Reals& grad_y, const ExpertGradients& to)
        : Pass(team, kernels, pass), gate_up_(gate_up), grad_y_(grad_y), to_(to) {}

    void run(Rooms& rooms) {
        const Real type = pass_.factors;
        rows_ = {rooms.rows.get<float>(s_.rows * s_.width), type};
        inner_ = {rooms.inner.get<float>(s_.rows * 2 * s_.size), type};
        hidden_ = {rooms.hidden.get<float>(s_.rows * s_.size), type};
        std::fill_n(to_.weight_TK, s_.tokens * s_.slots, 0.0f);
        const auto chunks = chunks_of(routed_, most_rows_);
        team_.run(static_cast<int64_t>(chunks.size()), [&](int member, int64_t item) {
            through(chunks[static_cast<size_t>(item)], after(chunks, item), member);
        });
        const auto blocks = all_blocks();
        const int64_t num_blocks = static_cast<int64_t>(blocks.size());
        team_.run(num_blocks + num_spans(), [&](int member, int64_t item) {
            if (item < num_blocks) weigh(blocks[static_cast<size_t>(item)], member);
            else add_slots(item - num_blocks, member, rows_, nullptr, to_.x_TD);
        });
    }

private:
    // from the gradient of y to those of gate, up, x and the slots' weights
    void through(const Chunk& chunk, int64_t next, int member) const {
        const int64_t D = s_.width, F = s_.size, m = chunk.count;
        const int64_t a_bytes = std::max(room_of(m, D), 2 * room_of(m, F));
        const int64_t b_bytes = std::max(gemm_.panel_bytes(gemm_.columns, D),
                                         2 * gemm_.panel_bytes(gemm_.columns, F));
        Parts parts(team_.scratch(member).get<uint8_t>(aligned(a_bytes) + aligned(b_bytes) +
                                                       aligned(m * F * 4) + aligned(6 * F * 4)));
        uint8_t *a = parts.take<uint8_t>(a_bytes), *b = parts.take<uint8_t>(b_bytes);
        const Reals grad_h{parts.take<float>(m * F), Real::f32};
        float* spare = parts.take<float>(6 * F);

        const ExpertWeights& w = pass_.weights;
        const Left grad(gemm_, {tokens(grad_y_), false, chunk.row}, m, 0, D, a);
        const Pair down{grad, {matrix(w.down_EDF, chunk.expert, F), true, 0}};
        multiply(gemm_, &down, 1, m, F, b, grad_h, F, ahead(w.gate_EFD, chunk.expert, m, F));
        for (int64_t r = 0; r < m; ++r)
            through_glu(chunk.row + r, reinterpret_cast<const float*>(grad_h.at(r * F)), spare);
        const View inner = view(inner_.from(chunk.row * 2 * F), 2 * F);
        const Left gate(gemm_, {inner, false, 0}, m, 0, F, a);
        const Left up(gemm_, {inner, false, 0}, m, F, F, a + room_of(m, F));
        const Pair both[] = {{gate, {matrix(w.gate_EFD, chunk.expert, D), true, 0}},
                             {up, {matrix(w.up_EFD, chunk.expert, D), true, 0}}};
        multiply(gemm_, both, 2, m, D, b, rows_.from(chunk.row * D), D,
                 ahead(w.down_EDF, next, m, D));
    }

    // a row's gradients of gate and up, and its h, all weighed
    void through_glu(int64_t row, const float* grad_h, float* spare) const {
        const int64_t F = s_.size, slot = routed_.order_R[row];
        const float weight = pass_.weight_TK[slot];
        const Reals inner = inner_.from(row * 2 * F), hidden = hidden_.from(row * F);
        const float* gate = as_floats(gemm_, gate_up_.from(row * 2 * F), 2 * F, spare);
        float *grad = room_for(inner, spare + 2 * F), *h = room_for(hidden, spare + 4 * F);
        glu_back(kernels_, gate, gate + F, grad_h, pass_.rule, F, grad, grad + F, h);
        to_.weight_TK[slot] = kernels_.dot(h, grad_h, F);
        for (int64_t i = 0; i < 2 * F; ++i) grad[i] *= weight;
        for (int64_t i = 0; i < F; ++i) h[i] *= weight;
        put(gemm_, grad, 2 * F, inner);
        put(gemm_, h, F, hidden);
    }

    // rows of the gradient of an expert's matrices: of gate and of up, or of down
    struct Block {
        int64_t expert, first, count;
        bool is_down;
    };

    std::vector<Block> all_blocks() const {
        std::vector<Block> blocks;
        for (int64_t e = 0; e < s_.experts; ++e) {
            const int64_t steps = std::max<int64_t>(1, rows_of(e));
            const int64_t fitting = 2 * kChunkBytes / (steps * 4) / gemm_.rows;
            const int64_t most = std::max<int64_t>(2, fitting) * gemm_.rows;
            for (const bool is_down : {false, true}) {
                const int64_t rows = is_down ? s_.width : s_.size;
                for (int64_t at = 0; at < rows; at += most)
                    blocks.push_back({e, at, std::min(most, rows - at), is_down});
            }
        }
        return blocks;
    }

    int64_t rows_of(int64_t e) const {
        return routed_.first_E[static_cast<size_t>(e) + 1] - routed_.first_E[static_cast<size_t>(e)];
    }

    void weigh(const Block& block, int member) const {
        const int64_t columns = block.is_down ? s_.size : s_.width;
        const int64_t place = block.expert * s_.size * s_.width + block.first * columns;
        const ExpertWeights& to = to_.weights;
        const View inner = view(inner_, 2 * s_.size);
        if (block.is_down) {
            const Factor right{view(hidden_, s_.size), true, 0};
            sum(block, member, {tokens(grad_y_), true, block.first}, right, to.down_EDF.from(place));
            return;
        }
        const Factor right{tokens(pass_.x_TD), true, 0};
        sum(block, member, {inner, true, block.first}, right, to.gate_EFD.from(place));
        sum(block, member, {inner, true, s_.size + block.first}, right, to.up_EFD.from(place));
    }

    // over an expert's rows
    void sum(const Block& block, int member, const Factor& left, const Factor& right,
             const Reals& c) const {
        const int64_t columns = block.is_down ? s_.size : s_.width, m = block.count;
        const int64_t row = routed_.first_E[static_cast<size_t>(block.expert)];
        const int64_t steps = rows_of(block.expert);
        if (steps == 0) {
            std::memset(c.data, 0, static_cast<size_t>(m * columns * size_of(c.type)));
            return;
        }
        const int64_t a_bytes = room_of(m, steps);
        const int64_t b_bytes = gemm_.panel_bytes(gemm_.columns, steps);
        Parts parts(team_.scratch(member).get<uint8_t>(aligned(a_bytes) + aligned(b_bytes)));
        uint8_t *a = parts.take<uint8_t>(a_bytes), *b = parts.take<uint8_t>(b_bytes);
        const Left all(gemm_, left, m, row, steps, a);
        Factor from_row = right;
        from_row.view = below(right.view, row);
        const Pair pair{all, from_row};
        multiply(gemm_, &pair, 1, m, columns, b, c, columns, {}, true);
    }

    // a view from a row on
    static View below(View view, int64_t row) {
        if (view.index) view.index += row;
        else view.data = static_cast<const uint8_t*>(view.data) + row * view.stride * size_of(view.type);
        return view;
    }

    Reals gate_up_, grad_y_;
    const ExpertGradients& to_;
    Reals rows_{}, inner_{}, hidden_{};
};

}  // namespace

Routed::Routed(Shape shape, const int64_t* order_R, const int64_t* counts_E)
    : shape(shape), first_E(1, 0),
      place_TK(static_cast<size_t>(shape.tokens * shape.slots), -1), order_R(order_R) {
    token_R.reserve(static_cast<size_t>(shape.rows));
    for (int64_t e = 0; e < shape.experts; ++e) {
        if (counts_E[e] < 0) throw std::invalid_argument("an expert has less than no rows");
        first_E.push_back(first_E.back() + counts_E[e]);
    }
    if (first_E.back() != shape.rows) throw std::invalid_argument("counts are not of these rows");
    for (int64_t r = 0; r < shape.rows; ++r) {
        if (order_R[r] < 0 || order_R[r] >= shape.tokens * shape.slots)
            throw std::invalid_argument("a row is of no token");
        token_R.push_back(order_R[r] / shape.slots);
        place_TK[static_cast<size_t>(order_R[r])] = r;
    }
}

void experts_forward(Team& team, const Kernels& kernels, const ExpertPass& pass, Rooms& rooms,
                     Reals kept_RX, Reals y_TD) {
    Forward(team, kernels, pass).run(rooms, kept_RX, y_TD);
}

void experts_backward(Team& team, const Kernels& kernels, const ExpertPass& pass, Rooms& rooms,
                      Reals kept_RX, Reals grad_y_TD, const ExpertGradients& to) {
    Backward(team, kernels, pass, kept_RX, grad_y_TD, to).run(rooms);
}

}  // namespace expertly
