// Gated feed-forwards: one for all rows, or a bank of experts each for its own.
#pragma once

#include <vector>

#include "activation_buffer.h"
#include "runtime.h"

namespace expertly {

// down(act(gate x) * up x); biases may be null
struct Expert {
    Matrix gate, up, down;
    const float* gate_bias;
    const float* up_bias;
    const float* down_bias;
};

// experts of one shape, though not of one format
struct Bank {
    std::vector<Expert> experts;
    GluRule rule;
    Forms input, hidden;  // what any of them wants; a step would look through all of them for it

    int64_t width() const { return experts.front().gate.layout.rows; }
    void put(size_t expert, const Matrix& gate, const Matrix& up, const Matrix& down);
};

constexpr int32_t kEmpty = -1;

// which experts T tokens go to and with what weights; `num_chosen` slots a token
struct Choice {
    const int32_t* ids;    // [T][K]; kEmpty: the slot is left out
    const float* weights;  // [T][K]
    int64_t num_chosen;
};

// what a feed-forward of these T tokens reads first, for threads that wait; `shared` may be null
void foresee(Pool& pool, const Bank& bank, const Bank* shared, const Choice& choice,
             int64_t tokens);

// the pairs of token and slot that are not empty, sorted by expert, within an expert by token
class SortedRows {
public:
    void sort(const Choice& choice, int64_t tokens, int64_t num_experts, int max_rows);

    const Span& span(int64_t expert) const { return spans_[expert]; }
    int64_t count() const { return static_cast<int64_t>(token_.size()); }
    const int32_t* tokens(int64_t row) const { return &token_[row]; }  // of it and those after it
    int64_t place(int64_t token, int64_t slot, int64_t num_chosen) const {
        return place_[token * num_chosen + slot];
    }

private:
    std::vector<Span> spans_;
    std::vector<int32_t> token_;
    std::vector<int64_t> place_;
};

// one bank's share of a step: its rows, their activations and results
struct BankWork {
    const Bank* bank;
    Choice choice;
    SortedRows rows;
    // `tokens`: once each; `input`: rows, but for those that are alone with their expert
    ActivationBuffer tokens, input, hidden;
    Scratch results;
    float* y = nullptr;  // [rows][tiles of down * 16]
};

// x[t] += for each work, in order: sum over slots of weight * expert(normed[t]); both [T][columns]
void feed_forward(Runtime& runtime, BankWork* works, int count, const float* normed,
                  int64_t tokens, float* x, int64_t columns);

// the same in three calls, for experts that are not all there at once: the rows sorted and put
// into the forms that the matrices want; then `compute` of some experts at a time, until all that
// have rows were given once; then the sums. To the bit what `feed_forward` gives.
void gather(Runtime& runtime, BankWork* works, int count, const float* normed, int64_t tokens,
            int64_t columns);
void compute(Runtime& runtime, BankWork& work, const std::vector<int32_t>& experts);
void combine(Runtime& runtime, BankWork* works, int count, int64_t tokens, float* x,
             int64_t columns);

// for experts that are computed elsewhere: their rows, expert after expert, x [rows][columns]; and
// in place of `compute` what came of them, without the last bias, y [rows][columns]
int64_t num_rows(const BankWork& work, const std::vector<int32_t>& experts);
void copy_rows(const BankWork& work, const std::vector<int32_t>& experts, const float* normed,
               int64_t columns, float* x);
void put_results(BankWork& work, const std::vector<int32_t>& experts, const float* y,
                 int64_t columns);

}  // namespace expertly
