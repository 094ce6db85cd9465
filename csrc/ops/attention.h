// Attention of query rows of many sequences to their cached keys and values.
#pragma once

#include <vector>

#include "pages.h"
#include "runtime.h"

namespace expertly {

struct AttentionShape {
    int heads;
    int groups;  // heads of keys and values; divides `heads`
    int head_size;
    int window;                // a token sees itself and window - 1 before it; 0: all before it
    std::vector<float> sinks;  // a head each: one more logit without a value; or empty
    float scale;
};

// y [count][y_stride] = softmax(q k * scale) v: row t is at position[t] of sequence[t] and sees
// up to that position, which is in the cache already. pages [sequences][pages_a_sequence]: ids.
// Rows of a sequence that stand together share the reading of its keys and values.
void attend(Runtime& runtime, const AttentionShape& shape, const float* q, int64_t q_stride,
            const int32_t* sequence, const int32_t* position, int64_t count, const int32_t* pages,
            int64_t pages_a_sequence, const PagePool& pool, int64_t layer, float* y,
            int64_t y_stride);

}  // namespace expertly
