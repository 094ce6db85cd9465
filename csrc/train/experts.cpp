#include "experts.h"

#include <cstring>
#include <stdexcept>

#include "../half.h"
#include "../ops/glu.h"
#include "panels.h"

namespace expertly {

namespace {

// of rows of one expert that are taken at once, about so many bytes of floats
constexpr int64_t kChunkBytes = 256 << 10;
// rows that a product is summed over before it is added to the sums before
constexpr int64_t kSumRows = 512;
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

// numbers to be computed as floats: in place, or in `spare` and then put there
class Target {
public:
    Target(const Reals& to, int64_t first, float* spare)
        : to_(to), first_(first),
          floats_(to.type == Real::f32 ? reinterpret_cast<float*>(to.at(first)) : spare) {}

    float* floats() const { return floats_; }
    void put(const Gemm& gemm, int64_t n) const {
        if (to_.type != Real::f32)
            gemm.narrow(floats_, n, reinterpret_cast<uint16_t*>(to_.at(first_)));
    }

private:
    Reals to_;
    int64_t first_;
    float* floats_;
};

// numbers as floats: where they lie, or as a copy in `spare`
const float* as_floats(const Gemm& gemm, const Reals& from, int64_t first, int64_t n,
                       float* spare) {
    if (from.type == Real::f32) return reinterpret_cast<const float*>(from.at(first));
    gemm.widen(reinterpret_cast<const uint16_t*>(from.at(first)), n, spare);
    return spare;
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
    static View floats(const float* rows, int64_t columns) {
        return {rows, Real::f32, columns};
    }
    int64_t room_of(int64_t m, int64_t steps) const {
        return panels_of(gemm_, m) * gemm_.panel_bytes(gemm_.rows, steps);
    }

    // c[m, n] = a * b, or more of it
    void multiply(const Left& a, const Factor& b, int64_t n, int64_t steps, bool adds,
                  uint8_t* room, float* c, int64_t stride) const {
        for (int64_t j = 0; j < n; j += gemm_.columns) {
            const Right right(gemm_, b, j, n, 0, steps, room);
            a.times(right.steps, right.count, adds, c + j, stride);
        }
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
            const Target to(y_TD, t * D, spare);
            std::memset(to.floats(), 0, static_cast<size_t>(D) * sizeof(float));
            for (int64_t k = t * K; k < (t + 1) * K; ++k) {
                const int64_t place = routed_.place_TK[static_cast<size_t>(k)];
                if (place < 0) continue;
                const float* from = as_floats(gemm_, rows_RD, place * D, D, row);
                kernels_.add_scaled(from, weight_TK ? weight_TK[k] : 1.0f, D, to.floats());
            }
            to.put(gemm_, D);
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
            compute(chunks[static_cast<size_t>(item)], member, gate_up, rows);
        });
        team_.run(num_spans(), [&](int member, int64_t item) {
            add_slots(item, member, rows, pass_.weight_TK, y_TD);
        });
    }

private:
    void compute(const Chunk& chunk, int member, const Reals& gate_up, const Reals& rows) const {
        const int64_t D = s_.width, F = s_.size, m = chunk.count;
        const int64_t widest = std::max(D, F);
        const int64_t a_bytes = aligned(room_of(m, widest));
        const int64_t b_bytes = aligned(gemm_.panel_bytes(gemm_.columns, widest));
        const int64_t floats_bytes = aligned(m * std::max(D, 2 * F) * 4) + aligned(m * F * 4);
        Parts parts(team_.scratch(member).get<uint8_t>(a_bytes + b_bytes + floats_bytes));
        uint8_t *a = parts.take<uint8_t>(a_bytes), *b = parts.take<uint8_t>(b_bytes);
        float *wide = parts.take<float>(m * std::max(D, 2 * F)), *h = parts.take<float>(m * F);

        const Target inner(gate_up, chunk.row * 2 * F, wide), result(rows, chunk.row * D, wide);
        const Factor x{tokens(pass_.x_TD), false, chunk.row};
        const Left left(gemm_, x, m, 0, D, a);
        float* gate = inner.floats();
        multiply(left, across(pass_.weights.gate_EFD, chunk, D), F, D, false, b, gate, 2 * F);
        multiply(left, across(pass_.weights.up_EFD, chunk, D), F, D, false, b, gate + F, 2 * F);
        for (int64_t r = 0; r < m; ++r, gate += 2 * F)
            glu(kernels_, gate, gate + F, pass_.rule, F, h + r * F);
        inner.put(gemm_, m * 2 * F);
        const Factor hidden{floats(h, F), false, 0};
        multiply(Left(gemm_, hidden, m, 0, F, a), across(pass_.weights.down_EDF, chunk, F), D, F,
                 false, b, result.floats(), D);
        result.put(gemm_, m * D);
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
        std::memset(to_.weight_TK, 0, static_cast<size_t>(s_.tokens * s_.slots) * sizeof(float));
        const auto chunks = chunks_of(routed_, most_rows_);
        team_.run(static_cast<int64_t>(chunks.size()), [&](int member, int64_t item) {
            through(chunks[static_cast<size_t>(item)], member);
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
    void through(const Chunk& chunk, int member) const {
        const int64_t D = s_.width, F = s_.size, m = chunk.count;
        const int64_t a_bytes = aligned(std::max(room_of(m, D), 2 * room_of(m, F)));
        const int64_t b_bytes = aligned(gemm_.panel_bytes(gemm_.columns, std::max(D, F)));
        const int64_t wide_count = m * std::max(D, 2 * F);
        Parts parts(team_.scratch(member).get<uint8_t>(
            a_bytes + b_bytes + aligned(wide_count * 4) + aligned(m * F * 4) + aligned(F * 4)));
        uint8_t *a = parts.take<uint8_t>(a_bytes), *b = parts.take<uint8_t>(b_bytes);
        float *wide = parts.take<float>(wide_count), *h = parts.take<float>(m * F);
        float* spare = parts.take<float>(F);

        const Target hidden(hidden_, chunk.row * F, h), inner(inner_, chunk.row * 2 * F, wide);
        const Factor grad{tokens(grad_y_), false, chunk.row};
        const Factor down{matrix(pass_.weights.down_EDF, chunk.expert, F), true, 0};
        multiply(Left(gemm_, grad, m, 0, D, a), down, F, D, false, b, hidden.floats(), F);
        const float* gate = as_floats(gemm_, gate_up_, chunk.row * 2 * F, m * 2 * F, wide);
        for (int64_t r = 0; r < m; ++r)
            through_glu(chunk.row + r, gate + r * 2 * F, inner.floats() + r * 2 * F,
                        hidden.floats() + r * F, spare);
        inner.put(gemm_, m * 2 * F);
        hidden.put(gemm_, m * F);
        to_x(chunk, inner.floats(), a, b, Target(rows_, chunk.row * D, wide));
    }

    // the gradient of h becomes h, weighed
    void through_glu(int64_t row, const float* gate, float* grad_gate, float* h,
                     float* grad) const {
        const int64_t F = s_.size, slot = routed_.order_R[row];
        const float weight = pass_.weight_TK[slot];
        std::memcpy(grad, h, static_cast<size_t>(F) * sizeof(float));
        glu_back(kernels_, gate, gate + F, grad, pass_.rule, F, grad_gate, grad_gate + F, h);
        to_.weight_TK[slot] = kernels_.dot(h, grad, F);
        for (int64_t i = 0; i < 2 * F; ++i) grad_gate[i] *= weight;
        for (int64_t i = 0; i < F; ++i) h[i] *= weight;
    }

    void to_x(const Chunk& chunk, const float* inner, uint8_t* a, uint8_t* b,
              const Target& result) const {
        const int64_t D = s_.width, F = s_.size, m = chunk.count;
        const Factor gate{floats(inner, 2 * F), false, 0};
        // both before the first product, which may lie where they do
        const Left left[] = {Left(gemm_, gate, m, 0, F, a),
                             Left(gemm_, gate, m, F, F, a + room_of(m, F))};
        const Reals stacks[] = {pass_.weights.gate_EFD, pass_.weights.up_EFD};
        for (int i = 0; i < 2; ++i) {
            const Factor right{matrix(stacks[i], chunk.expert, D), true, 0};
            multiply(left[i], right, D, F, i > 0, b, result.floats(), D);
        }
        result.put(gemm_, m * D);
    }

    // rows of the gradient of an expert's matrices: of gate and of up, or of down
    struct Block {
        int64_t expert, first, count;
        bool is_down;
    };

    std::vector<Block> all_blocks() const {
        std::vector<Block> blocks;
        for (int64_t e = 0; e < s_.experts; ++e)
            for (const bool is_down : {false, true}) {
                const int64_t rows = is_down ? s_.width : s_.size;
                const int64_t fitting = kChunkBytes / (columns_of(is_down) * 4) / gemm_.rows;
                const int64_t most = std::max<int64_t>(2, fitting) * gemm_.rows;
                for (int64_t at = 0; at < rows; at += most)
                    blocks.push_back({e, at, std::min(most, rows - at), is_down});
            }
        return blocks;
    }

    int64_t columns_of(bool is_down) const { return is_down ? s_.size : s_.width; }

    void weigh(const Block& block, int member) const {
        const int64_t columns = columns_of(block.is_down), count = block.count;
        const int64_t a_bytes = aligned(room_of(count, kSumRows)), c_bytes = count * columns * 4;
        const int64_t b_bytes = aligned(gemm_.panel_bytes(gemm_.columns, kSumRows));
        Parts parts(team_.scratch(member).get<uint8_t>(2 * a_bytes + b_bytes +
                                                       2 * aligned(c_bytes)));
        uint8_t* b = parts.take<uint8_t>(b_bytes);
        const auto side = [&](const Reals& to, const Factor& left) {
            const int64_t place = (block.expert * s_.size * s_.width) + block.first * columns;
            return Side{left, parts.take<uint8_t>(a_bytes),
                        Target(to, place, parts.take<float>(count * columns))};
        };
        const View inner{inner_.data, inner_.type, 2 * s_.size};
        const ExpertWeights& to = to_.weights;
        if (block.is_down) {
            const Factor right{{hidden_.data, hidden_.type, s_.size}, true, 0};
            sum(block, {side(to.down_EDF, {tokens(grad_y_), true, block.first})}, right, b);
        } else {
            const Factor right{tokens(pass_.x_TD), true, 0};
            sum(block, {side(to.gate_EFD, {inner, true, block.first}),
                        side(to.up_EFD, {inner, true, s_.size + block.first})}, right, b);
        }
    }

    // a left factor, its panels, and where its products go
    struct Side {
        Factor left;
        uint8_t* a;
        Target c;
    };

    void sum(const Block& block, const std::vector<Side>& sides, const Factor& right,
             uint8_t* b) const {
        const int64_t begin = routed_.first_E[static_cast<size_t>(block.expert)];
        const int64_t end = routed_.first_E[static_cast<size_t>(block.expert) + 1];
        const int64_t numbers = block.count * columns_of(block.is_down);
        for (const Side& side : sides)
            if (begin == end)
                std::memset(side.c.floats(), 0, static_cast<size_t>(numbers) * sizeof(float));
        for (int64_t row = begin; row < end; row += kSumRows)
            sum_rows(block, sides, right, b, row, std::min(kSumRows, end - row), row > begin);
        for (const Side& side : sides) side.c.put(gemm_, numbers);
    }

    void sum_rows(const Block& block, const std::vector<Side>& sides, const Factor& right,
                  uint8_t* b, int64_t row, int64_t steps, bool adds) const {
        const int64_t columns = columns_of(block.is_down), m = block.count;
        std::vector<Left> left;
        for (const Side& side : sides) left.emplace_back(gemm_, side.left, m, row, steps, side.a);
        for (int64_t j = 0; j < columns; j += gemm_.columns) {
            const Right panel(gemm_, right, j, columns, row, steps, b);
            for (size_t i = 0; i < sides.size(); ++i)
                left[i].times(panel.steps, panel.count, adds, sides[i].c.floats() + j, columns);
        }
    }

    Reals gate_up_, grad_y_;
    const ExpertGradients& to_;
    Reals rows_{}, inner_{}, hidden_{};
};

}  // namespace

Routed::Routed(Shape shape, const int64_t* order_R, const int64_t* counts_E)
    : shape(shape), first_E(1, 0),
      place_TK(static_cast<size_t>(shape.tokens * shape.slots), -1), order_R(order_R) {
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
                     Reals gate_up_R2F, Reals y_TD) {
    Forward(team, kernels, pass).run(rooms, gate_up_R2F, y_TD);
}

void experts_backward(Team& team, const Kernels& kernels, const ExpertPass& pass, Rooms& rooms,
                      Reals gate_up_R2F, Reals grad_y_TD, const ExpertGradients& to) {
    Backward(team, kernels, pass, gate_up_R2F, grad_y_TD, to).run(rooms);
}

}  // namespace expertly
