// Products of views by way of panels, on one thread.
#pragma once

#include <algorithm>

#include "../buffer.h"
#include "../gemm.h"

namespace expertly {

// where k runs in a view: along a row of it (across rows lie m or n), or down its rows
struct Factor {
    View view;
    bool is_down;
    int64_t first;  // the first m or n
};

inline Piece piece_of(const Factor& factor, int64_t from, int count, int64_t step, int64_t steps) {
    const int64_t at = factor.first + from;
    return factor.is_down ? Piece{step, at, steps, count} : Piece{at, step, steps, count};
}

// of a view that is read as it is, so much is gone through for one panel at most: more would not
// stay in a core's second cache
constexpr int64_t kMostBytesAsItIs = 512 << 10;

inline bool is_read_as_it_is(const Gemm& gemm, const Factor& factor, int64_t steps) {
    return gemm.reads_floats && factor.is_down && factor.view.type == Real::f32 &&
           steps * factor.view.stride * 4 <= kMostBytesAsItIs;
}

inline Steps as_it_is(const Factor& factor, int64_t from, int64_t step) {
    const View& view = factor.view;
    const uint8_t* at = static_cast<const uint8_t*>(view.data) + (factor.first + from) * 4;
    const int64_t stride = view.stride * 4;
    return view.index ? Steps{at, stride, view.index + step} : Steps{at + step * stride, stride};
}

inline void pack(const Gemm& gemm, bool is_b, const Factor& factor, int64_t from, int count,
                 int64_t step, int64_t steps, uint8_t* to) {
    gemm.pack[static_cast<int>(factor.view.type)][is_b][factor.is_down](
        factor.view, piece_of(factor, from, count, step, steps), to);
}

// memory that will be wanted next, fetched bit by bit between products
class Ahead {
public:
    Ahead() = default;
    Ahead(const uint8_t* at, int64_t bytes, int64_t products)
        : at_(at), end_(at + bytes), slice_((bytes / std::max<int64_t>(1, products) + 64) / 64 * 64) {}

    void fetch() {
        const uint8_t* end = std::min(end_, at_ + slice_);
        for (; at_ < end; at_ += 64) __builtin_prefetch(at_, 0, 2);
    }

private:
    const uint8_t* at_ = nullptr;
    const uint8_t* end_ = nullptr;
    int64_t slice_ = 0;
};

// a tensor without gaps, or a part of one
struct Reals {
    void* data;
    Real type;

    uint8_t* at(int64_t i) const { return static_cast<uint8_t*>(data) + i * size_of(type); }
    Reals from(int64_t i) const { return {at(i), type}; }
};

// all m of A, in panels one after the other or as they are
class Left {
public:
    // for `steps` k from `step` on; `room` is for panels
    Left(const Gemm& gemm, const Factor& factor, int64_t m, int64_t step, int64_t steps,
         uint8_t* room)
        : steps(steps) {
        if (is_read_as_it_is(gemm, factor, steps)) {
            first_ = as_it_is(factor, 0, step), stride_ = gemm.rows * 4;
            return;
        }
        first_ = gemm.in_panel(room, gemm.rows), stride_ = gemm.panel_bytes(gemm.rows, steps);
        for (int64_t i = 0; i < m; i += gemm.rows, room += stride_) {
            const int count = static_cast<int>(std::min<int64_t>(gemm.rows, m - i));
            pack(gemm, false, factor, i, count, step, steps, room);
        }
    }

    Steps panel(int64_t index) const {
        Steps at = first_;
        at.data += index * stride_;
        return at;
    }

    const int64_t steps;

private:
    int64_t stride_;
    Steps first_{};
};

// columns of C, whose B is in a panel or as it is
struct Right {
    int count;
    Steps steps;

    Right(const Gemm& gemm, const Factor& factor, int64_t from, int64_t n, int64_t step,
          int64_t num_steps, uint8_t* room)
        : count(static_cast<int>(std::min<int64_t>(gemm.columns, n - from))) {
        if (count == gemm.columns && is_read_as_it_is(gemm, factor, num_steps)) {
            steps = as_it_is(factor, from, step);
            return;
        }
        steps = gemm.in_panel(room, gemm.columns);
        pack(gemm, true, factor, from, count, step, num_steps, room);
    }
};

// of a product, or of one of two that are added
struct Pair {
    const Left& left;
    Factor right;
};

// C[m, n] = the sum of one or two products; `room` is for a panel of B each
inline void multiply(const Gemm& gemm, const Pair* pairs, int count, int64_t m, int64_t n,
                     uint8_t* room, const Reals& c, int64_t stride, Ahead ahead, bool is_last_use = false) {
    const PanelKernel kernel = gemm.multiply[static_cast<int>(c.type)];
    for (int64_t j = 0; j < n; j += gemm.columns) {
        Term terms[2];
        int width = 0;
        uint8_t* at = room;
        for (int p = 0; p < count; ++p) {
            const int64_t steps = pairs[p].left.steps;
            const Right right(gemm, pairs[p].right, j, n, 0, steps, at);
            at += gemm.panel_bytes(gemm.columns, steps);
            terms[p] = {steps, {}, right.steps, is_last_use}, width = right.count;
        }
        for (int64_t i = 0; i < m; i += gemm.rows) {
            ahead.fetch();
            for (int p = 0; p < count; ++p) terms[p].a = pairs[p].left.panel(i / gemm.rows);
            const int rows = static_cast<int>(std::min<int64_t>(gemm.rows, m - i));
            kernel(terms, count, rows, width, c.at(i * stride + j), stride);
        }
    }
}

inline int64_t panels_of(const Gemm& gemm, int64_t m) { return (m + gemm.rows - 1) / gemm.rows; }

}  // namespace expertly
