// AMX: what AVX-512 offers, but products of bfloat16 in tile registers.

#include "bf16.h"

namespace expertly {

namespace {

// dot products in four registers, which need not wait for each other
uint32_t probe_bf16(int64_t rounds) {
    alignas(64) uint32_t words[kMostRows][kMostRows];
    std::fill_n(words[0], kMostRows * kMostRows, 0x3F003F00u);  // pairs of 0.5
    Shapes shapes;
    for (int tile = 0; tile < kNumTiles; ++tile) shapes.set(tile, kMostRows, kRowBytes);
    shape_tiles(shapes);
    load_tile<4>(words, kRowBytes), load_tile<5>(words, kRowBytes);
    zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
    for (int64_t i = 0; i < rounds; ++i)
        dot_tiles<0, 4, 5>(), dot_tiles<1, 4, 5>(), dot_tiles<2, 4, 5>(), dot_tiles<3, 4, 5>();
    store_tile<0>(words, kRowBytes);
    release_tiles();
    return words[0][0];
}

constexpr int kProbeOps = 4 * kMostRows * kMostRows * 4 * kPairs;

}  // namespace

Kernels amx_over(const Kernels& base) {
    Kernels kernels = base;
    kernels.name = "amx-bf16";
    kernels.tile[static_cast<int>(Format::bf16)] = bf16_tiles;
    kernels.probes.bf16 = probe_bf16, kernels.probes.bf16_ops = kProbeOps;
    return kernels;
}

}  // namespace expertly
