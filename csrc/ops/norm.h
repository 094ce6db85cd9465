// Norms of one row; config.Norm says which.
#pragma once

#include <vector>

#include "../kernels.h"

namespace expertly {

struct Norm {
    bool is_rms;  // else a layer norm
    float eps;
    std::vector<float> weight;
    std::vector<float> bias;  // or empty
};

// y may be x
void normalise(const Kernels& kernels, const Norm& norm, const float* x, float* y);

}  // namespace expertly
