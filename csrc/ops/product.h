// Rows of activations times weight matrices, split over the pool.
#pragma once

#include "../activations.h"
#include "runtime.h"

namespace expertly {

// y[t * stride + r] = sum over c of w[r][c] * x[t][c]; y has room for whole tiles of 16 rows
struct Product {
    const Matrix* w;
    float* y;
    int64_t stride;
};

// all products of the same T rows, as one job
void multiply(Runtime& runtime, const Product* products, int count, const Activations& x,
              int64_t rows);

}  // namespace expertly
