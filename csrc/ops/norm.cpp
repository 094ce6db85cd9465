#include "norm.h"

#include <cmath>

namespace expertly {

namespace {

float mean_of(const float* x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    return static_cast<float>(sum / static_cast<double>(n));
}

float variance_of(const float* x, int64_t n, float mean) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i] - mean) * (x[i] - mean);
    return static_cast<float>(sum / static_cast<double>(n));
}

}  // namespace

void normalise(const Kernels& kernels, const Norm& norm, const float* x, float* y) {
    const int64_t n = static_cast<int64_t>(norm.weight.size());
    const float* bias = norm.bias.empty() ? nullptr : norm.bias.data();
    float centre = 0.0f, square = 0.0f;
    if (norm.is_rms) square = kernels.dot(x, x, n) / static_cast<float>(n);
    else centre = mean_of(x, n), square = variance_of(x, n, centre);
    const float by = 1.0f / std::sqrt(square + norm.eps);
    kernels.scale_row(x, centre, by, norm.weight.data(), bias, n, y);
}

}  // namespace expertly
