// Strips of bfloat16 weights times panels of rows, their sums in tile registers.
//
// 32 columns at a time, in order, whatever the number of rows: a row's result depends on it alone.
#pragma once

#include <algorithm>
#include <utility>

#include "../kernels.h"
#include "../kernels/fetch.h"
#include "registers.h"

namespace expertly {
namespace {

constexpr int64_t kPairs = 16;  // of columns, in a register's row
// pairs of columns whose weights stay in the first-level cache for all panels, of 4 tiles
constexpr int64_t kPairsAtOnce = 8 * kPairs;

// T tiles of weights, side by side
template <int T>
class Bf16Tiles {
    static constexpr int kA = 4, kB = 5, kLastA = 6, kLastB = 7;  // below: sums
    static constexpr auto kAll = std::make_integer_sequence<int, T>();

    const uint8_t* w_;
    int64_t tile_bytes_, pairs_;

    void shape(int rows) const {
        const int64_t left = pairs_ % kPairs;
        Shapes shapes;
        for (int tile = 0; tile < T; ++tile) shapes.set(tile, rows, kRowBytes);
        shapes.set(kA, rows, kRowBytes), shapes.set(kB, kPairs, kRowBytes);
        if (left > 0) shapes.set(kLastA, rows, 4 * left), shapes.set(kLastB, left, kRowBytes);
        shape_tiles(shapes);
    }

    template <int A, int B, int... I>
    void step(const Panel& x, int64_t pair, std::integer_sequence<int, I...>) const {
        load_tile<A>(x.bf16 + 2 * pair, 4 * pairs_);
        ((load_tile<B>(w_ + I * tile_bytes_ + pair * kRowBytes, kRowBytes), dot_tiles<I, A, B>()),
         ...);
    }

    // pairs of columns from `first` to `end`; the sums of those before are in y
    template <int... I>
    void add(const Panel& x, int64_t first, int64_t end, Fetch& fetch, float* y, int64_t stride,
             std::integer_sequence<int, I...> all) const {
        shape(x.n);
        if (first == 0) (zero_tile<I>(), ...);
        else (load_tile<I>(y + I * kTileRows, 4 * stride), ...);
        int64_t pair = first;
        for (; pair + kPairs <= end; pair += kPairs) fetch.next(), step<kA, kB>(x, pair, all);
        if (pair < end) step<kLastA, kLastB>(x, pair, all);
        (store_tile<I>(y + I * kTileRows, 4 * stride), ...);
    }

public:
    Bf16Tiles(const uint8_t* w, const Layout& layout)
        : w_(w), tile_bytes_(layout.tile_bytes), pairs_((layout.columns + 1) / 2) {}

    void run(Panels x, Fetch& fetch, float* y, int64_t stride) const {
        const int64_t at_once = x.count > 1 ? kPairsAtOnce : pairs_;
        for (int64_t first = 0; first < pairs_; first += at_once) {
            float* to = y;
            for (int64_t i = 0; i < x.count; ++i) {
                const Panel& panel = x.data[i];
                add(panel, first, std::min(pairs_, first + at_once), fetch, to, stride, kAll);
                to += panel.n * stride;
            }
        }
    }
};

inline void bf16_tiles(Strip tiles, const Layout& layout, Panels x, Strip ahead, float* y,
                       int64_t stride) {
    constexpr int most = 4;
    const int64_t calls = tiles.count / most + tiles.count % most;
    const int64_t steps = std::max<int64_t>(1, layout.columns / (2 * kPairs));
    Fetch fetch(ahead.data, ahead.count * layout.tile_bytes, calls * steps * x.count);
    int64_t i = 0;
    for (; i + most <= tiles.count; i += most)
        Bf16Tiles<most>(tiles.data + i * layout.tile_bytes, layout)
            .run(x, fetch, y + i * kTileRows, stride);
    for (; i < tiles.count; ++i)
        Bf16Tiles<1>(tiles.data + i * layout.tile_bytes, layout)
            .run(x, fetch, y + i * kTileRows, stride);
    release_tiles();
}

}  // namespace
}  // namespace expertly
