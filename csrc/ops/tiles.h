// A run of a matrix's tiles that one thread multiplies, one after the other.
#pragma once

#include <cassert>

#include "../pool.h"
#include "activation_buffer.h"

namespace expertly {

// activations of so many rows stay in the second-level cache while tiles stream past
constexpr int64_t kRowBlock = 128;
// tiles that are computed together, while as many are on their way from memory
constexpr int64_t kTilesAtOnce = 4;

inline int64_t panels_a_block(const Kernels& kernels) {
    return std::max<int64_t>(1, kRowBlock / kernels.max_rows);
}

// work(row) for every row of a span, a panel an item: threads that fill rows of one panel would
// write to the same lines
template <class Work>
void for_rows(Pool& pool, const Span& span, const Work& work) {
    pool.run(span.panels(), [&](int64_t panel) {
        const int64_t first = span.begin(panel);
        for (int64_t i = 0; i < span.size(panel); ++i) work(first + i);
    });
}

struct TileRun {
    const Matrix* w = nullptr;
    int64_t begin = 0, end = 0;

    // up to kTilesAtOnce from `tile` on; none beyond the end
    Strip at(int64_t tile) const {
        if (tile >= end) return {nullptr, 0};
        return {w->tile(tile), std::min(kTilesAtOnce, end - tile)};
    }
};

// tiles [begin, end) of a run, as far as it goes, as what a thread will read; false once it has enough
inline bool foresee(Foresight& foresight, int thread, const TileRun& run, int64_t begin,
                    int64_t end) {
    const int64_t count = std::min(end, run.end) - begin;
    return count <= 0 ||
           foresight.add(thread, run.w->tile(begin), count * run.w->layout.tile_bytes);
}

// in place of what was foreseen before: what each thread's first items of a job will read;
// add(thread, item) until it returns false
template <class Add>
void foresee_items(Pool& pool, int64_t items, const Add& add) {
    pool.foresight().forget();
    for (int thread = 0; thread < pool.threads(); ++thread)
        for (int64_t i = pool.first_item(items, thread); i < pool.first_item(items, thread + 1); ++i)
            if (!add(thread, i)) break;
}

// what to fetch while the tiles from `tile` on are computed: those that follow, or the first of the
// run that the thread takes up next, which may have none
inline Strip ahead_of(const TileRun& run, int64_t tile, const TileRun& next) {
    const Strip own = run.at(tile + kTilesAtOnce);
    if (own.count > 0 || next.w == nullptr) return own;
    const bool is_alike = next.w->layout.tile_bytes == run.w->layout.tile_bytes;
    return is_alike ? next.at(next.begin) : Strip{nullptr, 0};
}

// kTilesAtOnce tiles of a run (or what is left of it) from `tile` on, times panels [first, last)
// of a span; row i of the first one to y + i * stride
inline void multiply_tiles(const Kernels& kernels, const TileRun& run, int64_t tile,
                           const TileRun& next, const ActivationBuffer& x, const Span& span,
                           int64_t first, int64_t last, float* y, int64_t stride) {
    assert(last - first <= kRowBlock);
    Panel panels[kRowBlock];
    for (int64_t i = first; i < last; ++i) x.set_panel(span, i, panels[i - first]);
    kernels.tile[static_cast<int>(run.w->format)](run.at(tile), run.w->layout,
                                                  {panels, last - first}, ahead_of(run, tile, next),
                                                  y, stride);
}

}  // namespace expertly
