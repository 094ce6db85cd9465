// Products of small matrices from panels, for training: what an instruction set offers for one
// type of factors. Sums are float32.
//
// C[m, n] = sum over k of A[m, k] * B[k, n]. A comes in panels of `rows` m, B in panels of
// `columns` n; a panel holds all k, the m or n of one k side by side, zeros where there is none.
#pragma once

#include <cstdint>

namespace expertly {

// types of numbers in matrices, and of factors in panels
enum class Real : int { f32, bf16, count };

inline int64_t size_of(Real type) { return type == Real::f32 ? 4 : 2; }

// rows of numbers, one after the other, or in the order of `index`
struct View {
    const void* data;
    Real type;
    int64_t stride;  // numbers from row to row
    const int64_t* index = nullptr;

    const uint8_t* row(int64_t i) const {
        return static_cast<const uint8_t*>(data) +
               (index ? index[i] : i) * stride * size_of(type);
    }
};

// a panel of `count` rows of the view from `row` on: k are `steps` columns from `column` on
// (across), or of `count` columns from `column` on: k are `steps` rows from `row` on (along)
struct Piece {
    int64_t row, column, steps;
    int count;
};
using PackKernel = void (*)(const View& from, const Piece& piece, void* panel);

// where the m or n of one k after the other lie: in a panel, or in a view of floats as it is
struct Steps {
    const uint8_t* data;
    int64_t stride;  // bytes from k to k
    const int64_t* index = nullptr;  // k are in this order
};

struct Term {
    int64_t steps;
    Steps a, b;
    bool is_last_use = false;  // C is not read again soon
};

// C = the sum of terms (which lie alike); m of at most `rows`, n of at most `columns`, but a whole
// panel of B is read
using PanelKernel = void (*)(const Term* terms, int num_terms, int m, int n, void* c,
                             int64_t stride);

struct Gemm {
    int rows, columns;
    int step_bytes;  // of one number and one k in a panel
    int steps_at_once;  // k of a panel are padded to this
    bool reads_floats;  // may take views of floats without panels
    // [type of the view's numbers][is it B][is it along]
    PackKernel pack[static_cast<int>(Real::count)][2][2];
    PanelKernel multiply[static_cast<int>(Real::count)];  // by the type of C
    void (*narrow)(const float* x, int64_t n, uint16_t* y);  // to bfloat16, to nearest
    void (*widen)(const uint16_t* x, int64_t n, float* y);

    int64_t padded(int64_t steps) const {
        return (steps + steps_at_once - 1) / steps_at_once * steps_at_once;
    }
    int64_t panel_bytes(int width, int64_t steps) const {
        return padded(steps) * width * step_bytes;
    }
    Steps in_panel(const uint8_t* panel, int width) const {
        return {panel, static_cast<int64_t>(width) * step_bytes * steps_at_once};
    }
};

}  // namespace expertly
