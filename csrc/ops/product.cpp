#include "product.h"

#include <algorithm>

namespace expertly {

namespace {

// activations of so many rows stay in the second-level cache while tiles stream past
constexpr int64_t kRowBlock = 128;
constexpr int64_t kTilesAnItem = 8;

int64_t tiles_an_item(int64_t tiles, int64_t row_blocks, int threads) {
    // at least four items a thread, so that a slow thread does not hold up the others
    const int64_t even = tiles * row_blocks / (4 * threads);
    return std::clamp<int64_t>(even, 1, kTilesAnItem);
}

}  // namespace

void multiply(Runtime& runtime, const Product* products, int count, const Activations& x,
              int64_t rows) {
    int64_t tiles = 0;
    for (int i = 0; i < count; ++i) tiles += products[i].w->layout.tiles;
    const int64_t row_blocks = (rows + kRowBlock - 1) / kRowBlock;
    const int64_t step = tiles_an_item(tiles, row_blocks, runtime.pool.threads());
    const int64_t chunks = (tiles + step - 1) / step;
    runtime.pool.run(chunks * row_blocks, [&](int64_t item) {
        const int64_t first_row = item / chunks * kRowBlock;
        const int n = static_cast<int>(std::min(kRowBlock, rows - first_row));
        const Activations part = moved(x, first_row);
        const int64_t begin = item % chunks * step, end = std::min(tiles, begin + step);
        int64_t before = 0;
        for (int i = 0; i < count; ++i) {
            const Product& p = products[i];
            const Layout& layout = p.w->layout;
            const int64_t from = std::max<int64_t>(begin - before, 0);
            const int64_t to = std::min(end - before, layout.tiles);
            const auto kernel = runtime.kernels.tile[static_cast<int>(p.w->format)];
            for (int64_t tile = from; tile < to; ++tile)
                kernel(p.w->tile(tile), layout, part, nullptr, n,
                       p.y + first_row * p.stride + tile * kTileRows, p.stride);
            before += layout.tiles;
        }
    });
}

}  // namespace expertly
