// NEON with dot products: two vectors of 16 bytes hold half of the 16 rows of a tile.
//
// Run under emulation only, never timed: what is chosen for speed here follows from counting
// instructions, not from a measurement.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "../half.h"

#define I_INLINE inline __attribute__((always_inline))

namespace expertly {
namespace {

struct Neon {
    static constexpr int lanes = 8;
    static constexpr int max_rows = 4;
    static constexpr int gemm_rows = 6;  // with two vectors each
    static constexpr bool multiplies_bf16 = false;  // quicker than floats
    static constexpr int max_sums = 0;  // rows times tiles side by side; 0: a tile by itself
    static constexpr bool adds_128 = false;
    static constexpr bool has_pairs = false;
    static constexpr bool reads_ahead = false;  // codes before they are asked for
    static constexpr int fetch_rows = 1;  // from so many rows on tiles fetch those after them
    static constexpr int groups_ahead = 0;  // how far few rows bring lines into the first cache
    struct Bytes { uint8x16_t first, second; };
    struct Ints { int32x4_t first, second; };
    struct Floats { float32x4_t first, second; };

    static I_INLINE Bytes load(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
    template <bool IsHigh>
    static I_INLINE uint8x16_t nibble(uint8x16_t b) {
        return IsHigh ? vshrq_n_u8(b, 4) : vandq_u8(b, vdupq_n_u8(15));
    }
    template <bool IsHigh>
    static I_INLINE Bytes nibble(Bytes b) {
        return {nibble<IsHigh>(b.first), nibble<IsHigh>(b.second)};
    }
    // the Width bits from bit From of each byte, moved to bit To
    template <int Width, int From, int To>
    static I_INLINE uint8x16_t field(uint8x16_t b) {
        if constexpr (From > To) b = vshrq_n_u8(b, From - To);
        if constexpr (From < To) b = vshlq_n_u8(b, To - From);
        return vandq_u8(b, vdupq_n_u8(((1 << Width) - 1) << To));
    }
    template <int Width, int From, int To>
    static I_INLINE Bytes field(Bytes b) {
        return {field<Width, From, To>(b.first), field<Width, From, To>(b.second)};
    }
    static I_INLINE Bytes either(Bytes a, Bytes b) {
        return {vorrq_u8(a.first, b.first), vorrq_u8(a.second, b.second)};
    }
    static I_INLINE Bytes table(const int8_t* values) {
        const uint8x16_t all = vreinterpretq_u8_s8(vld1q_s8(values));
        return {all, all};
    }
    static I_INLINE Bytes lookup(Bytes table, Bytes index) {
        return {vqtbl1q_u8(table.first, index.first), vqtbl1q_u8(table.second, index.second)};
    }

    static I_INLINE Ints zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
    static I_INLINE Ints set_int(int32_t value) { return {vdupq_n_s32(value), vdupq_n_s32(value)}; }
    static I_INLINE Ints broadcast_int(const int32_t* p) {
        const int32x4_t all = vld1q_dup_s32(p);
        return {all, all};
    }
    static I_INLINE Ints add_int(Ints a, Ints b) {
        return {vaddq_s32(a.first, b.first), vaddq_s32(a.second, b.second)};
    }
    static I_INLINE Ints max_int(Ints a, Ints b) {
        return {vmaxq_s32(a.first, b.first), vmaxq_s32(a.second, b.second)};
    }
    static I_INLINE Ints magnitude_bits(Floats a) {
        const int32x4_t mask = vdupq_n_s32(0x7FFFFFFF);
        return {vandq_s32(vreinterpretq_s32_f32(a.first), mask),
                vandq_s32(vreinterpretq_s32_f32(a.second), mask)};
    }
    static I_INLINE int32_t largest(Ints a) { return vmaxvq_s32(vmaxq_s32(a.first, a.second)); }
    static I_INLINE int32_t sum(Ints a) { return vaddvq_s32(vaddq_s32(a.first, a.second)); }
    template <int By>
    static I_INLINE Ints shift_left(Ints a) {
        return {vshlq_n_s32(a.first, By), vshlq_n_s32(a.second, By)};
    }
    static I_INLINE int32x4_t four(const void* q) {
        int32_t value;
        std::memcpy(&value, q, 4);
        return vdupq_n_s32(value);
    }
    // codes are below 64: signed bytes hold them too
    static I_INLINE Ints dot(Ints acc, Bytes w, const int8_t* q) {
        const int8x16_t x = vreinterpretq_s8_s32(four(q));
        return {vdotq_s32(acc.first, vreinterpretq_s8_u8(w.first), x),
                vdotq_s32(acc.second, vreinterpretq_s8_u8(w.second), x)};
    }
    // to bytes, which is to take 128 off as well
    static I_INLINE Bytes add_128(Bytes w) {
        const uint8x16_t high = vdupq_n_u8(128);
        return {veorq_u8(w.first, high), veorq_u8(w.second, high)};
    }
    static I_INLINE Ints dot_signed(Ints acc, Bytes w, const int8_t* q) { return dot(acc, w, q); }

    // the float32 of the lower (upper) bfloat16 of each pair
    static I_INLINE float32x4_t lower(uint32x4_t pairs) {
        return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    }
    static I_INLINE float32x4_t upper(uint32x4_t pairs) {
        return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF0000)));
    }
    static I_INLINE float32x4_t dot_bf16(float32x4_t acc, uint8x16_t w, uint32x4_t x) {
        const uint32x4_t pairs = vreinterpretq_u32_u8(w);
        return vfmaq_f32(vfmaq_f32(acc, lower(pairs), lower(x)), upper(pairs), upper(x));
    }
    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        const uint32x4_t pair = vreinterpretq_u32_s32(four(x));
        return {dot_bf16(acc.first, w.first, pair), dot_bf16(acc.second, w.second, pair)};
    }

    static I_INLINE Floats set(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
    // by way of memory
    static I_INLINE void stream(float* p, Floats a) { store(p, a); }
    static I_INLINE void stream_bf16(uint16_t* p, Floats a, Floats b) {
        store_bf16(p, a), store_bf16(p + lanes, b);
    }
    static I_INLINE void transpose(Floats (&v)[lanes]) {
        float rows[lanes][lanes], columns[lanes][lanes];
        for (int i = 0; i < lanes; ++i) store(rows[i], v[i]);
        for (int i = 0; i < lanes; ++i)
            for (int j = 0; j < lanes; ++j) columns[j][i] = rows[i][j];
        for (int i = 0; i < lanes; ++i) v[i] = load_float(columns[i]);
    }
    static I_INLINE void store_bf16(uint16_t* p, Floats a) {
        float values[lanes];
        store(values, a);
        for (int i = 0; i < lanes; ++i) p[i] = bf16_of_float(values[i]);
    }
    static I_INLINE Floats load_bf16(const uint16_t* p) {
        float values[lanes];
        for (int i = 0; i < lanes; ++i) values[i] = float_of_bf16(p[i]);
        return load_float(values);
    }

    static I_INLINE Floats zero_float() { return set(0.0f); }
    static I_INLINE Floats broadcast(const float* p) {
        const float32x4_t all = vld1q_dup_f32(p);
        return {all, all};
    }
    static I_INLINE Floats to_float(Ints a) {
        return {vcvtq_f32_s32(a.first), vcvtq_f32_s32(a.second)};
    }
    // a float by its bits
    static I_INLINE Floats float_of(Ints bits) {
        return {vreinterpretq_f32_s32(bits.first), vreinterpretq_f32_s32(bits.second)};
    }
    static I_INLINE Floats mul(Floats a, Floats b) {
        return {vmulq_f32(a.first, b.first), vmulq_f32(a.second, b.second)};
    }
    static I_INLINE Floats fma(Floats a, Floats b, Floats c) {
        return {vfmaq_f32(c.first, a.first, b.first), vfmaq_f32(c.second, a.second, b.second)};
    }
    static I_INLINE Floats negate(Floats a) { return {vnegq_f32(a.first), vnegq_f32(a.second)}; }
    static I_INLINE Floats add(Floats a, Floats b) {
        return {vaddq_f32(a.first, b.first), vaddq_f32(a.second, b.second)};
    }
    static I_INLINE Floats div(Floats a, Floats b) {
        return {vdivq_f32(a.first, b.first), vdivq_f32(a.second, b.second)};
    }
    // of two equal values or a NaN the second, unlike this processor's own instructions
    static I_INLINE float32x4_t max(float32x4_t a, float32x4_t b) {
        return vbslq_f32(vcgtq_f32(a, b), a, b);
    }
    static I_INLINE Floats max(Floats a, Floats b) {
        return {max(a.first, b.first), max(a.second, b.second)};
    }
    static I_INLINE float32x4_t min(float32x4_t a, float32x4_t b) {
        return vbslq_f32(vcltq_f32(a, b), a, b);
    }
    static I_INLINE Floats min(Floats a, Floats b) {
        return {min(a.first, b.first), min(a.second, b.second)};
    }
    static I_INLINE Floats abs(Floats a) { return {vabsq_f32(a.first), vabsq_f32(a.second)}; }
    // to nearest, ties to even
    static I_INLINE Ints round(Floats a) {
        return {vcvtnq_s32_f32(a.first), vcvtnq_s32_f32(a.second)};
    }
    static I_INLINE float32x4_t power_of_two(int32x4_t n) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
    }
    static I_INLINE Floats power_of_two(Ints n) {
        return {power_of_two(n.first), power_of_two(n.second)};
    }
    static I_INLINE void store_s8(int8_t* p, Ints a) {
        const int16x8_t words = vcombine_s16(vmovn_s32(a.first), vmovn_s32(a.second));
        vst1_s8(p, vmovn_s16(words));
    }
    static I_INLINE void store_half(uint16_t* p, Floats a) {
        vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.first)));
        vst1_u16(p + 4, vreinterpret_u16_f16(vcvt_f16_f32(a.second)));
    }
    static I_INLINE void store(float* p, Floats a) {
        vst1q_f32(p, a.first);
        vst1q_f32(p + 4, a.second);
    }

    // 16 bytes from anywhere, of anything
    static I_INLINE uint8x16_t load_16(const void* p) {
        return vld1q_u8(static_cast<const uint8_t*>(p));
    }
    static I_INLINE Floats load_float(const void* p) {
        const auto at = static_cast<const uint8_t*>(p);
        return {vreinterpretq_f32_u8(load_16(at)), vreinterpretq_f32_u8(load_16(at + 16))};
    }
    static I_INLINE Floats load_half(const void* p) {
        const float16x8_t half = vreinterpretq_f16_u8(load_16(p));
        return {vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)};
    }
    static I_INLINE Floats widened(uint8x8_t b) {
        const uint16x8_t words = vmovl_u8(b);
        return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))),
                vcvtq_f32_u32(vmovl_high_u16(words))};
    }
    static I_INLINE Floats load_u8(const uint8_t* p) { return widened(vld1_u8(p)); }
    static I_INLINE Floats load_s8(const uint8_t* p) {
        const int16x8_t words = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))),
                vcvtq_f32_s32(vmovl_high_s16(words))};
    }
    template <bool IsHigh>
    static I_INLINE Floats load_u4(const uint8_t* p) {
        const uint8x8_t b = vld1_u8(p);
        return widened(IsHigh ? vshr_n_u8(b, 4) : vand_u8(b, vdup_n_u8(15)));
    }
    // half of 2^(byte - 127): the table of mxfp4 is doubled
    static I_INLINE float32x4_t half_of_exponent(uint32x4_t e) {
        const uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
        const uint32x4_t small = vshlq_u32(vdupq_n_u32(0x00200000), vreinterpretq_s32_u32(e));
        const uint32x4_t is_small = vcltq_u32(e, vdupq_n_u32(2));
        return vreinterpretq_f32_u32(vbslq_u32(is_small, small, normal));
    }
    static I_INLINE Floats load_exponent(const uint8_t* p) {
        const uint16x8_t e = vmovl_u8(vld1_u8(p));
        return {half_of_exponent(vmovl_u16(vget_low_u16(e))), half_of_exponent(vmovl_high_u16(e))};
    }
};

}  // namespace
}  // namespace expertly
