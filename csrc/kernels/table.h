// The table of an instruction set's kernels, made from its vectors `I`.
#pragma once

#include <utility>

#include "attention.h"
#include "floats.h"
#include "gemm.h"
#include "probe.h"
#include "quantise_row.h"
#include "rows.h"
#include "tile.h"

namespace expertly {
namespace {

using BlockKernel = void (*)(const uint8_t* tile, const Layout& layout, const Panel& x,
                             Fetch& fetch, float* y, int64_t stride);

template <class I, Format F, int N, int M>
constexpr BlockKernel any_block() {
    if constexpr (F == Format::bf16) return bf16_block<I, N>;
    else if constexpr (scheme_of(F).codes == Codes::floats) return float_block<I, F, N>;
    else return block<I, F, N, M>;
}

// how many tiles of a format are computed at once for N rows, out of `left`
template <class I, Format F>
constexpr int at_once(int n, int64_t left) {
    if (scheme_of(F).codes == Codes::floats) return 1;
    if (left >= 4 && 4 * n <= I::max_sums) return 4;
    return left >= 2 && 2 * n <= I::max_sums ? 2 : 1;
}

template <class I, Format F, int N>
void tiles_of(Strip tiles, const Layout& layout, const Panel& x, Strip ahead, float* y,
              int64_t stride) {
    const int64_t passes = tiles.count * (kTileRows / I::lanes);
    const int64_t ahead_bytes = N < I::fetch_rows ? 0 : ahead.count * layout.tile_bytes;
    Fetch fetch(ahead.data, ahead_bytes, passes * layout.groups);
    while (tiles.count > 0) {
        const int m = at_once<I, F>(N, tiles.count);
        BlockKernel kernel = any_block<I, F, N, 1>();
        if constexpr (at_once<I, F>(N, 2) == 2)
            if (m == 2) kernel = any_block<I, F, N, 2>();
        if constexpr (at_once<I, F>(N, 4) == 4)
            if (m == 4) kernel = any_block<I, F, N, 4>();
        kernel(tiles.data, layout, x, fetch, y, stride);
        tiles.data += m * layout.tile_bytes;
        tiles.count -= m;
        y += m * kTileRows;
    }
}

using PanelOfTiles = void (*)(Strip tiles, const Layout& layout, const Panel& x, Strip ahead,
                              float* y, int64_t stride);

// entry N - 1 computes N rows at once
template <class I, Format F, int... N>
PanelOfTiles pick(int n, std::integer_sequence<int, N...>) {
    static constexpr PanelOfTiles table[] = {tiles_of<I, F, N + 1>...};
    return table[n - 1];
}

template <class I, Format F>
void tile(Strip tiles, const Layout& layout, Panels x, Strip ahead, float* y, int64_t stride) {
    const auto sizes = std::make_integer_sequence<int, I::max_rows>();
    for (int64_t i = 0; i < x.count; ++i) {
        const Panel& panel = x.data[i];
        pick<I, F>(panel.n, sizes)(tiles, layout, panel, share_of(ahead, layout, i, x.count), y,
                                   stride);
        y += panel.n * stride;
    }
}

template <class I, int... F>
constexpr Kernels make_kernels(const char* name, std::integer_sequence<int, F...>) {
    return Kernels{name, I::max_rows, {tile<I, static_cast<Format>(F)>...},
                   quantise_row<I>, to_bf16<I>,
                   dot_floats<I>,   scale_row<I>,
                   silu_glu<I>,     silu_glu_back<I>,
                   add_scaled<I>,   make_probes<I>(),
                   make_attention<I>(),
                   {make_gemm<I, Factors::floats>(),
                    make_gemm<I, I::multiplies_bf16 ? Factors::pairs : Factors::rounded>()}};
}

template <class I>
constexpr Kernels make_kernels(const char* name) {
    constexpr int count = static_cast<int>(Format::count);
    return make_kernels<I>(name, std::make_integer_sequence<int, count>());
}

}  // namespace
}  // namespace expertly
