// The table of an instruction set's kernels, made from its vectors `I`.
#pragma once

#include <utility>

#include "attention.h"
#include "floats.h"
#include "probe.h"
#include "quantise_row.h"
#include "rows.h"
#include "tile.h"

namespace expertly {
namespace {

template <class I, Format F, int N>
void any_block(const uint8_t* tile, const Layout& layout, const Panel& x, const uint8_t* ahead,
               float* y, int64_t stride) {
    if constexpr (F == Format::bf16) bf16_block<I, N>(tile, layout, x, ahead, y, stride);
    else if constexpr (scheme_of(F).codes == Codes::floats)
        float_block<I, F, N>(tile, layout, x, ahead, y, stride);
    else block<I, F, N>(tile, layout, x, ahead, y, stride);
}

// entry N - 1 computes N rows at once
template <class I, Format F, int... N>
TileKernel pick(int n, std::integer_sequence<int, N...>) {
    static constexpr TileKernel table[] = {any_block<I, F, N + 1>...};
    return table[n - 1];
}

template <class I, Format F>
void tile(const uint8_t* data, const Layout& layout, const Panel& x, const uint8_t* ahead,
          float* y, int64_t stride) {
    const auto sizes = std::make_integer_sequence<int, I::max_rows>();
    pick<I, F>(x.n, sizes)(data, layout, x, ahead, y, stride);
}

template <class I, int... F>
constexpr Kernels make_kernels(const char* name, std::integer_sequence<int, F...>) {
    return Kernels{name, I::max_rows, {tile<I, static_cast<Format>(F)>...},
                   quantise_row<I>, to_bf16<I>,
                   dot_floats<I>,   scale_row<I>,
                   silu_glu<I>,     add_scaled<I>,
                   make_probes<I>(),  make_attention<I>()};
}

template <class I>
constexpr Kernels make_kernels(const char* name) {
    constexpr int count = static_cast<int>(Format::count);
    return make_kernels<I>(name, std::make_integer_sequence<int, count>());
}

}  // namespace
}  // namespace expertly
