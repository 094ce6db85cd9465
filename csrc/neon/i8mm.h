// NEON with matrix products of int8 and dot products of bfloat16.
#pragma once

#include "block.h"

namespace expertly {
namespace {

struct NeonI8mm : Neon {
    static I_INLINE float32x4_t dot_bf16(float32x4_t acc, uint8x16_t w, int32x4_t x) {
        return vbfdotq_f32(acc, vreinterpretq_bf16_u8(w), vreinterpretq_bf16_s32(x));
    }
    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        const int32x4_t pair = four(x);
        return {dot_bf16(acc.first, w.first, pair), dot_bf16(acc.second, w.second, pair)};
    }
};

// 8 columns of 8 rows, two rows a vector
struct RowPairs {
    int8x16_t at[4];

    I_INLINE RowPairs(Neon::Bytes step, Neon::Bytes next)
        : at{pair<false>(step.first, next.first), pair<true>(step.first, next.first),
             pair<false>(step.second, next.second), pair<true>(step.second, next.second)} {}

    template <bool IsUpper>
    static I_INLINE int8x16_t pair(uint8x16_t step, uint8x16_t next) {
        const int32x4_t a = vreinterpretq_s32_u8(step), b = vreinterpretq_s32_u8(next);
        return vreinterpretq_s8_s32(IsUpper ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
    }
};

// two tokens by two rows in each vector
struct TokenPair {
    int32x4_t at[4];

    I_INLINE void add(const RowPairs& w, int8x16_t x) {
        for (int i = 0; i < 4; ++i) at[i] = vmmlaq_s32(at[i], x, w.at[i]);
    }
    template <bool IsSecond>
    static I_INLINE int32x4_t join(int32x4_t a, int32x4_t b) {
        const int64x2_t c = vreinterpretq_s64_s32(a), d = vreinterpretq_s64_s32(b);
        return vreinterpretq_s32_s64(IsSecond ? vzip2q_s64(c, d) : vzip1q_s64(c, d));
    }
    template <bool IsSecond>
    I_INLINE Neon::Ints token() const {
        return {join<IsSecond>(at[0], at[1]), join<IsSecond>(at[2], at[3])};
    }
};

// tokens in pairs; of an odd number the last one alone
template <int N>
struct MatrixSums {
    static constexpr bool is_odd = N % 2 == 1;
    TokenPair pairs[N / 2];
    Neon::Ints last;

    I_INLINE void clear() {
        for (auto& pair : pairs)
            for (auto& sums : pair.at) sums = vdupq_n_s32(0);
        if constexpr (is_odd) last = Neon::zero();
    }
    I_INLINE void add(const Neon::Bytes (&w)[4], const int8_t* q) {
        const RowPairs low(w[0], w[1]), high(w[2], w[3]);
        for (int i = 0; i < N / 2; ++i) {
            const int64x2_t one = vreinterpretq_s64_s8(vld1q_s8(q + 2 * i * kGroup));
            const int64x2_t other = vreinterpretq_s64_s8(vld1q_s8(q + (2 * i + 1) * kGroup));
            pairs[i].add(low, vreinterpretq_s8_s64(vzip1q_s64(one, other)));
            pairs[i].add(high, vreinterpretq_s8_s64(vzip2q_s64(one, other)));
        }
        if constexpr (is_odd) last = dot_16(last, w, q + (N - 1) * kGroup);
    }
    I_INLINE Neon::Ints of(int t) const {
        if (is_odd && t == N - 1) return last;
        const TokenPair& pair = pairs[t / 2];
        return t % 2 ? pair.token<true>() : pair.token<false>();
    }
};

template <>
struct MatrixSums<1> : DotSums<1> {};

template <Format F, int N>
struct Blocks<NeonI8mm, F, N, 1> : NeonBlocks<NeonI8mm, MatrixSums<N>, F, N> {};

// as many sums side by side as hide an instruction's latency; operations: 2 * 2 * 2 * 8 a sum
constexpr int kMatrixSums = 8;

inline uint32_t probe_matrix(int64_t rounds) {
    const int8x16_t w = vdupq_n_s8(1), x = vdupq_n_s8(2);
    int32x4_t sums[kMatrixSums];
    for (int i = 0; i < kMatrixSums; ++i) sums[i] = vdupq_n_s32(i);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < kMatrixSums; ++i) {
            // not foreseen by the compiler, or it would leave all rounds but one out
            __asm__ volatile("" : "+w"(sums[i]));
            sums[i] = vmmlaq_s32(sums[i], x, w);
        }
    int32x4_t all = sums[0];
    for (int i = 1; i < kMatrixSums; ++i) all = vorrq_s32(all, sums[i]);
    return static_cast<uint32_t>(vgetq_lane_s32(all, 0));
}

}  // namespace
}  // namespace expertly
