// A run of a matrix's tiles that one thread multiplies, one after the other.
#pragma once

#include "activation_buffer.h"

namespace expertly {

// activations of so many rows stay in the second-level cache while tiles stream past
constexpr int64_t kRowBlock = 128;

inline int64_t panels_a_block(const Kernels& kernels) {
    return std::max<int64_t>(1, kRowBlock / kernels.max_rows);
}

struct TileRun {
    const Matrix* w = nullptr;
    int64_t begin = 0, end = 0;

    bool is_empty() const { return begin >= end; }
    const uint8_t* at(int64_t tile) const { return tile < end ? w->tile(tile) : nullptr; }
};

// far enough ahead that memory has answered by the time the tile is wanted
constexpr int64_t kAheadBytes = 24 << 10;

// the tile to fetch while `tile` of `run` is computed: one of its own, else one of the run that
// the thread takes up next, which may have none
inline const uint8_t* ahead_of(const TileRun& run, int64_t tile, const TileRun& next) {
    const int64_t lead = (kAheadBytes + run.w->layout.tile_bytes - 1) / run.w->layout.tile_bytes;
    if (tile + lead < run.end) return run.w->tile(tile + lead);
    const bool fits = !next.is_empty() && next.w->layout.tile_bytes == run.w->layout.tile_bytes;
    return fits ? next.at(next.begin + tile + lead - run.end) : nullptr;
}

// tile times panels [first, last) of a span; row i of the first one to y + i * stride
inline void multiply_tile(const Kernels& kernels, const Matrix& w, int64_t tile,
                          const uint8_t* ahead, const ActivationBuffer& x, const Span& span,
                          int64_t first, int64_t last, float* y, int64_t stride) {
    const auto kernel = kernels.tile[static_cast<int>(w.format)];
    for (int64_t i = first; i < last; ++i) {
        const Panel panel = x.panel(span, i);
        kernel(w.tile(tile), w.layout, panel, i == first ? ahead : nullptr, y, stride);
        y += panel.n * stride;
    }
}

}  // namespace expertly
