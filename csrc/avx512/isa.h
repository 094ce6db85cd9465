// AVX-512 with VNNI: one vector holds all 16 rows of a tile.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define I_INLINE inline __attribute__((always_inline))

namespace expertly {
namespace {

struct Avx512 {
    static constexpr int lanes = 16;
    static constexpr int max_rows = 12;
    static constexpr int gemm_rows = 12;  // with two vectors each
    static constexpr bool multiplies_bf16 = false;  // quicker than floats
    static constexpr int max_sums = 12;  // rows times tiles side by side; 0: a tile by itself
    static constexpr bool adds_128 = true;  // vpdpbusd takes unsigned weights only
    static constexpr bool has_pairs = false;
    static constexpr bool reads_ahead = true;  // the codes of a step amid the products before it
    // from so many rows on tiles fetch those after them: with fewer Intel's processors do better
    static constexpr int fetch_rows = 3;
    static constexpr int groups_ahead = 0;  // how far few rows bring lines into the first cache
    using Bytes = __m512i;
    using Ints = __m512i;
    using Floats = __m512;

    static I_INLINE Bytes load(const uint8_t* p) { return _mm512_loadu_si512(p); }

    template <bool IsHigh>
    static I_INLINE Bytes nibble(Bytes b) {
        const Bytes mask = _mm512_set1_epi8(15);
        return _mm512_and_si512(IsHigh ? _mm512_srli_epi16(b, 4) : b, mask);
    }

    // the Width bits from bit From of each byte, moved to bit To
    template <int Width, int From, int To>
    static I_INLINE Bytes field(Bytes b) {
        const Bytes mask = _mm512_set1_epi8(static_cast<char>(((1 << Width) - 1) << To));
        if constexpr (From > To) b = _mm512_srli_epi16(b, From - To);
        if constexpr (From < To) b = _mm512_slli_epi16(b, To - From);
        return _mm512_and_si512(b, mask);
    }

    static I_INLINE Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
    static I_INLINE Bytes table(const int8_t* values) {
        return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }
    static I_INLINE Bytes lookup(Bytes table, Bytes index) {
        return _mm512_shuffle_epi8(table, index);
    }

    static I_INLINE Ints zero() { return _mm512_setzero_si512(); }
    static I_INLINE Ints set_int(int32_t value) { return _mm512_set1_epi32(value); }
    static I_INLINE Ints broadcast_int(const int32_t* p) { return _mm512_set1_epi32(*p); }
    template <int By>
    static I_INLINE Ints shift_left(Ints a) { return _mm512_slli_epi32(a, By); }
    static I_INLINE Ints add_int(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static I_INLINE Ints max_int(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
    static I_INLINE Ints magnitude_bits(Floats a) {
        return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7FFFFFFF));
    }
    static I_INLINE int32_t largest(Ints a) { return _mm512_reduce_max_epi32(a); }
    static I_INLINE int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a); }
    static I_INLINE Bytes four(const void* p) {
        int32_t value;
        std::memcpy(&value, p, 4);
        return _mm512_set1_epi32(value);
    }
    static I_INLINE Ints dot(Ints acc, Bytes w, Bytes q) { return _mm512_dpbusd_epi32(acc, w, q); }
    static I_INLINE Ints dot(Ints acc, Bytes w, const int8_t* q) {
        // gcc would broadcast by an instruction of its own, and issue more of them than fit a cycle
        typedef int32_t Four __attribute__((aligned(1), may_alias));
        __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0"
                : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const Four*>(q)));
        return acc;
    }
    // to bytes, which is to take 128 off as well
    static I_INLINE Bytes add_128(Bytes w) {
        return _mm512_xor_si512(w, _mm512_set1_epi8(static_cast<char>(-128)));
    }
    static I_INLINE Ints dot_signed(Ints acc, Bytes w, const int8_t* q) { return dot(acc, w, q); }

    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        const Ints pair = four(x);
        const Ints upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
        const Floats first = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                                             _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)), acc);
        return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, upper)),
                               _mm512_castsi512_ps(_mm512_and_si512(pair, upper)), first);
    }

    static I_INLINE Floats zero_float() { return _mm512_setzero_ps(); }
    static I_INLINE Floats broadcast(const float* p) { return _mm512_set1_ps(*p); }
    static I_INLINE Floats to_float(Ints a) { return _mm512_cvtepi32_ps(a); }
    // a float by its bits
    static I_INLINE Floats float_of(Ints bits) { return _mm512_castsi512_ps(bits); }
    static I_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static I_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static I_INLINE Floats negate(Floats a) {
        return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
    }
    static I_INLINE Floats set(float value) { return _mm512_set1_ps(value); }
    static I_INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static I_INLINE Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    static I_INLINE Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static I_INLINE Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static I_INLINE Floats abs(Floats a) { return _mm512_abs_ps(a); }
    static I_INLINE Ints round(Floats a) { return _mm512_cvtps_epi32(a); }
    static I_INLINE Floats power_of_two(Ints n) {
        const Ints exponent = _mm512_add_epi32(n, _mm512_set1_epi32(127));
        return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    }
    static I_INLINE void store_s8(int8_t* p, Ints a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
    }
    static I_INLINE void store_half(uint16_t* p, Floats a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a, 0));
    }
    static I_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }

    static I_INLINE void stream(float* p, Floats a) { _mm512_stream_ps(p, a); }
    static I_INLINE void stream_bf16(uint16_t* p, Floats a, Floats b) {
        const Ints both = _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16(a)), to_bf16(b), 1);
        _mm512_stream_si512(reinterpret_cast<__m512i*>(p), both);
    }
    static I_INLINE void transpose(Floats (&v)[lanes]) {
        Floats t[lanes];
        for (int i = 0; i < lanes; i += 2) {
            t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
            t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
        }
        for (int i = 0; i < lanes; i += 4)
            for (int j = 0; j < 2; ++j) {
                const auto a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
                v[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                v[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0x88);
            t[i + 4] = _mm512_shuffle_f32x4(v[i], v[i + 4], 0xDD);
            t[i + 8] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x88);
            t[i + 12] = _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xDD);
        }
        for (int i = 0; i < 8; ++i) {
            v[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
            v[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
        }
    }
    // to nearest, ties to even; a NaN stays one
    static I_INLINE __m256i to_bf16(Floats a) {
        const Ints bits = _mm512_castps_si512(a), upper = _mm512_srli_epi32(bits, 16);
        const Ints odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        const Ints up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
        const Ints rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
        const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
        return _mm512_cvtepi32_epi16(
            _mm512_mask_or_epi32(rounded, is_nan, upper, _mm512_set1_epi32(0x40)));
    }
    static I_INLINE void store_bf16(uint16_t* p, Floats a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(a));
    }
    static I_INLINE Floats load_bf16(const uint16_t* p) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }

    static I_INLINE Floats load_float(const void* p) { return _mm512_loadu_ps(p); }
    static I_INLINE Floats load_half(const void* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    }
    static I_INLINE __m128i load_16(const uint8_t* p) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
    static I_INLINE Floats load_u8(const uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_16(p)));
    }
    static I_INLINE Floats load_s8(const uint8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_16(p)));
    }
    template <bool IsHigh>
    static I_INLINE Floats load_u4(const uint8_t* p) {
        const Ints b = _mm512_cvtepu8_epi32(load_16(p));
        const Ints four = IsHigh ? _mm512_srli_epi32(b, 4)
                                 : _mm512_and_si512(b, _mm512_set1_epi32(15));
        return _mm512_cvtepi32_ps(four);
    }
    // half of 2^(byte - 127): the table of mxfp4 is doubled
    static I_INLINE Floats load_exponent(const uint8_t* p) {
        const Ints e = _mm512_cvtepu8_epi32(load_16(p)), one = _mm512_set1_epi32(1);
        const Ints normal = _mm512_slli_epi32(_mm512_sub_epi32(e, one), 23);
        // of bytes 0 and 1; of others it is less
        const Ints small = _mm512_slli_epi32(_mm512_add_epi32(e, one), 21);
        return _mm512_castsi512_ps(_mm512_max_epi32(normal, small));
    }
};

}  // namespace
}  // namespace expertly
