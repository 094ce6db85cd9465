// Rows of activations times weight matrices, split over the pool.
#pragma once

#include "activation_buffer.h"
#include "runtime.h"

namespace expertly {

// y[t * stride + r] = sum over c of w[r][c] * x[t][c]; y has room for whole tiles of 16 rows
struct Product {
    const Matrix* w;
    float* y;
    int64_t stride;
};

// all products of the same rows, a span of `x`, as one job
void multiply(Runtime& runtime, const Product* products, int count, const ActivationBuffer& x,
              const Span& span);

// what such a job of `panels` will read first, for threads that wait; `y` is not looked at
void foresee(Runtime& runtime, const Product* products, int count, int64_t panels);

}  // namespace expertly
