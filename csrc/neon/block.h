// Quantised tiles in NEON's order: 16 columns of weights in registers, met by each token in turn.
//
// The same integers as tile.h's, added up in the same order of groups.
#pragma once

#include "isa.h"

#include "../kernels/tile.h"

namespace expertly {
namespace {

// one token's 16 columns with 8 rows, a dot product of 4 columns at a time
I_INLINE Neon::Ints dot_16(Neon::Ints acc, const Neon::Bytes (&w)[4], const int8_t* q) {
    const int8x16_t x = vld1q_s8(q);
    const auto add = [&](int32x4_t sum, uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(a), x, 0);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(b), x, 1);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(c), x, 2);
        return vdotq_laneq_s32(sum, vreinterpretq_s8_u8(d), x, 3);
    };
    return {add(acc.first, w[0].first, w[1].first, w[2].first, w[3].first),
            add(acc.second, w[0].second, w[1].second, w[2].second, w[3].second)};
}

template <int N>
struct DotSums {
    Neon::Ints acc[N];

    I_INLINE void clear() {
        for (int t = 0; t < N; ++t) acc[t] = Neon::zero();
    }
    // w: 4 steps of 8 rows; q: 16 columns of the first token, those of the next a group further
    I_INLINE void add(const Neon::Bytes (&w)[4], const int8_t* q) {
        for (int t = 0; t < N; ++t) acc[t] = dot_16(acc[t], w, q + t * kGroup);
    }
    I_INLINE Neon::Ints of(int t) const { return acc[t]; }
};

// the codes of all formats are signed bytes here: unsigned ones are below 64. Sums are made from
// zero, and what they should have started from is added to them.
template <class I, class Sums, Format F, int N>
struct NeonBlocks {
    using B = Block<I, F, N>;

    B (&blocks)[1];
    Fetch& fetch;
    const uint8_t* x;
    const uint8_t* halves;

    template <int Half>
    I_INLINE void sixteen(int64_t g, Sums& sums) const {
        const B& block = blocks[0];
        const Neon::Bytes w[4] = {
            block.template codes<4 * Half>(g), block.template codes<4 * Half + 1>(g),
            block.template codes<4 * Half + 2>(g), block.template codes<4 * Half + 3>(g)};
        sums.add(w, reinterpret_cast<const int8_t*>(x + 16 * Half));
    }

    I_INLINE void finish(int64_t g, int half, const Sums& sums) {
        Neon::Ints acc[N];
        for (int t = 0; t < N; ++t)
            acc[t] = Neon::add_int(sums.of(t), B::start(x, halves, t, half));
        blocks[0].add(x, halves, g, half, blocks[0].scale(g, half), acc);
    }

    I_INLINE void group(int64_t g) {
        blocks[0].scales.enter(blocks[0].p, g, blocks[0].lane);
        Sums sums;
        sums.clear();
        sixteen<0>(g, sums);
        if constexpr (B::is_halved) {
            finish(g, 0, sums);
            sums.clear();
        }
        sixteen<1>(g, sums);
        finish(g, B::is_halved ? 1 : 0, sums);
    }

    I_INLINE void run(int64_t groups) {
        for (int64_t g = 0; g < groups; ++g) {
            fetch.next();
            group(g);
            x += N * kRecordBytes;
            if constexpr (B::is_halved) halves += N * kHalvesBytes;
        }
    }
};

}  // namespace
}  // namespace expertly
