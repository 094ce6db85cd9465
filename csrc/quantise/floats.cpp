#include <cmath>
#include <cstring>

#include "../half.h"
#include "encoder.h"

namespace expertly {

namespace {

// too large becomes the largest
uint16_t finite_bf16_of_float(float value) {
    const uint16_t high = bf16_of_float(value);
    return (high & 0x7FFF) == 0x7F80 ? static_cast<uint16_t>(high - 1) : high;
}

uint16_t finite_half_of_float(float value) {
    const uint16_t half = half_of_float(value);
    return (half & 0x7FFF) == 0x7C00 ? static_cast<uint16_t>(half - 1) : half;
}

class Copy : public Encoder {
    void row(const float* w, const float*, int64_t columns, uint8_t* out) override {
        std::memcpy(out, w, static_cast<size_t>(columns) * sizeof(float));
    }
};

template <uint16_t (*Narrow)(float)>
class Narrowed : public Encoder {
    void row(const float* w, const float*, int64_t columns, uint8_t* out) override {
        for (int64_t c = 0; c < columns; ++c) {
            const uint16_t value = Narrow(w[c]);
            std::memcpy(out + 2 * c, &value, 2);
        }
    }
};

}  // namespace

std::unique_ptr<Encoder> float_encoder(Format format) {
    if (format == Format::f16) return std::make_unique<Narrowed<finite_half_of_float>>();
    if (format == Format::bf16) return std::make_unique<Narrowed<finite_bf16_of_float>>();
    return std::make_unique<Copy>();
}

}  // namespace expertly
