#include "quantise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "encoder.h"

namespace expertly {

namespace {

// of the greatest importance: what keeps columns of none from dividing by 0
constexpr float kLeastCost = 1e-9f;

std::unique_ptr<Encoder> encoder_of(Format format) {
    if (format == Format::i4) return i4_encoder();
    const int size = block_of(format).size;
    if (size == 1) return float_encoder(format);
    return size == 32 ? small_encoder(format) : super_encoder(format);
}

std::vector<float> costs_of(const float* importance, int64_t columns, int64_t padded) {
    std::vector<float> costs(static_cast<size_t>(padded), kLeastCost);
    const float most = importance ? *std::max_element(importance, importance + columns) : 0;
    for (int64_t c = 0; c < columns; ++c)
        costs[static_cast<size_t>(c)] = most > 0 ? importance[c] / most + kLeastCost : 1;
    return costs;
}

}  // namespace

int64_t count_not_finite(const float* values, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) found += !std::isfinite(values[i]);
    return found;
}

void quantise(Format format, const float* w, int64_t rows, int64_t columns,
              const float* importance, uint8_t* out) {
    if (columns == 0) return;
    const int64_t size = block_of(format).size, stride = row_bytes(format, columns);
    const int64_t padded = (columns + size - 1) / size * size;
    const std::vector<float> costs = costs_of(importance, columns, padded);
    std::vector<float> row(static_cast<size_t>(padded));
    const std::unique_ptr<Encoder> encoder = encoder_of(format);
    for (int64_t r = 0; r < rows; ++r) {
        std::copy(w + r * columns, w + (r + 1) * columns, row.begin());
        encoder->row(row.data(), costs.data(), padded, out + r * stride);
    }
}

}  // namespace expertly
