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
void any_block(const uint8_t* tile, const Layout& layout, const Activations& x,
               const int32_t* rows, float* y, int64_t stride) {
    if constexpr (F == Format::bf16) bf16_block<I, N>(tile, layout, x, rows, y, stride);
    else if constexpr (scheme_of(F).codes == Codes::floats)
        float_block<I, F, N>(tile, layout, x, rows, y, stride);
    else block<I, F, N>(tile, layout, x, rows, y, stride);
}

using BlockKernel = void (*)(const uint8_t*, const Layout&, const Activations&, const int32_t*,
                             float*, int64_t);

// entry N - 1 computes N rows at once
template <class I, Format F>
struct Blocks {
    template <int... N>
    static BlockKernel pick(int n, std::integer_sequence<int, N...>) {
        static constexpr BlockKernel table[] = {any_block<I, F, N + 1>...};
        return table[n - 1];
    }
};

// n rows in blocks of nearly equal size, so that no small block repeats the decoding of weights
template <class I, Format F>
void tile(const uint8_t* data, const Layout& layout, const Activations& x, const int32_t* rows,
          int n, float* y, int64_t stride) {
    int blocks = (n + I::max_rows - 1) / I::max_rows;
    for (int done = 0; blocks > 0; --blocks) {
        const int size = (n - done + blocks - 1) / blocks;
        const auto kernel =
            Blocks<I, F>::pick(size, std::make_integer_sequence<int, I::max_rows>());
        float* to = y + done * stride;
        if (rows) kernel(data, layout, x, rows + done, to, stride);
        else kernel(data, layout, done ? moved(x, done) : x, nullptr, to, stride);
        done += size;
    }
}

template <class I, int... F>
constexpr Kernels make_kernels(const char* name, std::integer_sequence<int, F...>) {
    return Kernels{name,          {tile<I, static_cast<Format>(F)>...},
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
