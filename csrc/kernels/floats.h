// Strip of float weights against n rows of activations.
#pragma once

#include "../kernels.h"
#include "fetch.h"

namespace expertly {
namespace {

// the number of sums a row of floats is spread over, so that they need not wait for each other
constexpr int kSums = 2;

// even and odd columns summed apart in order, each product and sum one rounding
template <class I, Format F, int N>
void float_block(const uint8_t* tile, const Layout& layout, const Panel& x, Fetch& fetch,
                 float* y, int64_t stride) {
    constexpr int64_t bytes = F == Format::f32 ? 4 : 2;
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        typename I::Floats acc[kSums][N];
        const float* at[N];
        for (int t = 0; t < N; ++t) {
            acc[0][t] = acc[1][t] = I::zero_float();
            at[t] = x.x + t * x.row_floats;
        }
        const auto add = [&](int sum, int64_t c) {
            const uint8_t* p = tile + (c * kTileRows + lane) * bytes;
            const auto w = F == Format::f32 ? I::load_float(p) : I::load_half(p);
            for (int t = 0; t < N; ++t) acc[sum][t] = I::fma(w, I::broadcast(at[t] + c), acc[sum][t]);
        };
        int64_t c = 0;
        for (; c + 1 < layout.columns; c += 2) fetch.next(), add(0, c), add(1, c + 1);
        if (c < layout.columns) add(0, c);
        for (int t = 0; t < N; ++t)
            I::store(y + t * stride + lane, I::add(acc[0][t], acc[1][t]));
    }
}

// two columns at a time, both factors bfloat16, sums float32; even and odd pairs apart
template <class I, int N>
void bf16_block(const uint8_t* tile, const Layout& layout, const Panel& x, Fetch& fetch,
                float* y, int64_t stride) {
    const int64_t pairs = (layout.columns + 1) / 2;
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        typename I::Floats acc[kSums][N];
        const uint16_t* at[N];
        for (int t = 0; t < N; ++t) {
            acc[0][t] = acc[1][t] = I::zero_float();
            at[t] = x.bf16 + t * 2 * pairs;
        }
        const auto add = [&](int sum, int64_t c) {
            const auto w = I::load(tile + (c * kTileRows + lane) * 4);
            for (int t = 0; t < N; ++t) acc[sum][t] = I::dot_bf16(acc[sum][t], w, at[t] + 2 * c);
        };
        int64_t c = 0;
        for (; c + 1 < pairs; c += 2) fetch.next(), add(0, c), add(1, c + 1);
        if (c < pairs) add(0, c);
        for (int t = 0; t < N; ++t)
            I::store(y + t * stride + lane, I::add(acc[0][t], acc[1][t]));
    }
}

}  // namespace
}  // namespace expertly
