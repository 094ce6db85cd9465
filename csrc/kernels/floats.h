// Tiles of float weights against n rows of activations.
#pragma once

#include "../kernels.h"

namespace expertly {
namespace {

// one column after another, each a fused multiply-add of float32
template <class I, Format F, int N>
void float_block(const uint8_t* tile, const Layout& layout, const Activations& x,
                 const int32_t* rows, float* y, int64_t stride) {
    constexpr int64_t bytes = F == Format::f32 ? 4 : 2;
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        typename I::Floats acc[N];
        const float* at[N];
        for (int t = 0; t < N; ++t) {
            acc[t] = I::zero_float();
            at[t] = x.x + (rows ? rows[t] : t) * x.x_stride;
        }
        for (int64_t c = 0; c < layout.columns; ++c) {
            const uint8_t* p = tile + (c * kTileRows + lane) * bytes;
            const auto w = F == Format::f32 ? I::load_float(p) : I::load_half(p);
            for (int t = 0; t < N; ++t) acc[t] = I::fma(w, I::broadcast(at[t] + c), acc[t]);
        }
        for (int t = 0; t < N; ++t) I::store(y + t * stride + lane, acc[t]);
    }
}

// two columns at a time, both factors bfloat16, sums float32
template <class I, int N>
void bf16_block(const uint8_t* tile, const Layout& layout, const Activations& x,
                const int32_t* rows, float* y, int64_t stride) {
    const int64_t pairs = (layout.columns + 1) / 2;
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        typename I::Floats acc[N];
        const uint16_t* at[N];
        for (int t = 0; t < N; ++t) {
            acc[t] = I::zero_float();
            at[t] = x.bf16 + (rows ? rows[t] : t) * 2 * pairs;
        }
        for (int64_t c = 0; c < pairs; ++c) {
            const auto w = I::load(tile + (c * kTileRows + lane) * 4);
            for (int t = 0; t < N; ++t) acc[t] = I::dot_bf16(acc[t], w, at[t] + 2 * c);
        }
        for (int t = 0; t < N; ++t) I::store(y + t * stride + lane, acc[t]);
    }
}

}  // namespace
}  // namespace expertly
