#include "product.h"

#include <algorithm>
#include <vector>

#include "tiles.h"

namespace expertly {

namespace {

constexpr int64_t kTilesAnItem = kTilesAtOnce;

struct Item {
    const Product* product;
    TileRun run;
    int64_t first, last;  // panels
};

int64_t tiles_an_item(int64_t tiles, int64_t blocks, int threads) {
    // at least four items a thread, so that a slow thread does not hold up the others
    const int64_t even = std::clamp<int64_t>(tiles * blocks / (4 * threads), 1, kTilesAnItem);
    return even > 2 ? (even + kTilesAtOnce - 1) / kTilesAtOnce * kTilesAtOnce : even;
}

std::vector<Item> split(const Product* products, int count, int64_t panels, const Runtime& runtime) {
    const int64_t block = panels_a_block(runtime.kernels);
    int64_t tiles = 0;
    for (int i = 0; i < count; ++i) tiles += products[i].w->layout.tiles;
    const int64_t step =
        tiles_an_item(tiles, (panels + block - 1) / block, runtime.pool.threads());
    std::vector<Item> items;
    for (int64_t first = 0; first < panels; first += block)
        for (int i = 0; i < count; ++i) {
            const Matrix* w = products[i].w;
            for (int64_t tile = 0; tile < w->layout.tiles; tile += step)
                items.push_back({&products[i], {w, tile, std::min(tile + step, w->layout.tiles)},
                                 first, std::min(panels, first + block)});
        }
    return items;
}

}  // namespace

void foresee(Runtime& runtime, const Product* products, int count, int64_t panels) {
    const auto items = split(products, count, panels, runtime);
    foresee_items(runtime.pool, static_cast<int64_t>(items.size()), [&](int thread, int64_t i) {
        const TileRun& run = items[static_cast<size_t>(i)].run;
        return foresee(runtime.pool.foresight(), thread, run, run.begin, run.end);
    });
}

void multiply(Runtime& runtime, const Product* products, int count, const ActivationBuffer& x,
              const Span& span) {
    const auto items = split(products, count, span.panels(), runtime);
    runtime.pool.run(static_cast<int64_t>(items.size()), [&](int64_t i, int64_t next) {
        const Item& item = items[static_cast<size_t>(i)];
        const TileRun after = next < 0 ? TileRun{} : items[static_cast<size_t>(next)].run;
        const Product& p = *item.product;
        float* y = p.y + span.begin(item.first) * p.stride;
        for (int64_t tile = item.run.begin; tile < item.run.end; tile += kTilesAtOnce)
            multiply_tiles(runtime.kernels, item.run, tile, after, x, span, item.first, item.last,
                           y + tile * kTileRows, p.stride);
    });
}

}  // namespace expertly
