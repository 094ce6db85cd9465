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

// all m of A, in panels one after the other or as they are
class Left {
public:
    // for `steps` k from `step` on; `room` is for panels
    Left(const Gemm& gemm, const Factor& factor, int64_t m, int64_t step, int64_t steps,
         uint8_t* room)
        : gemm_(gemm), m_(m), steps_(steps) {
        if (is_read_as_it_is(gemm, factor, steps)) {
            first_ = as_it_is(factor, 0, step), stride_ = gemm.rows * 4;
            return;
        }
        first_ = gemm.in_panel(room, gemm.rows), stride_ = gemm.panel_bytes(gemm.rows, steps);
        for (int64_t i = 0; i < m; i += gemm.rows, room += stride_)
            pack(gemm, false, factor, i, count_from(i), step, steps, room);
    }

    // C's columns of one panel of B
    void times(const Steps& b, int n, bool adds, float* c, int64_t stride) const {
        Steps a = first_;
        for (int64_t i = 0; i < m_; i += gemm_.rows, a.data += stride_)
            gemm_.multiply(steps_, a, b, count_from(i), n, adds, c + i * stride, stride);
    }

private:
    int count_from(int64_t i) const {
        return static_cast<int>(std::min<int64_t>(gemm_.rows, m_ - i));
    }

    const Gemm& gemm_;
    int64_t m_, steps_, stride_;
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

inline int64_t panels_of(const Gemm& gemm, int64_t m) { return (m + gemm.rows - 1) / gemm.rows; }

}  // namespace expertly
