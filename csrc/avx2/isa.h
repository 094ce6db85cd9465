// AVX2 with FMA and F16C: one vector holds half of the 16 rows of a tile.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../half.h"

#define I_INLINE inline __attribute__((always_inline))

namespace expertly {
namespace {

struct Avx2 {
    static constexpr int lanes = 8;
    static constexpr int max_rows = 6;
    static constexpr int gemm_rows = 6;  // with two vectors each
    static constexpr bool multiplies_bf16 = false;  // quicker than floats
    static constexpr int max_sums = 6;  // rows times tiles side by side; 0: a tile by itself
    static constexpr bool adds_128 = false;
    static constexpr bool has_pairs = true;  // sums of products two at a time, in 16 bits
    static constexpr bool reads_ahead = false;  // codes before they are asked for
    static constexpr int fetch_rows = 1;  // from so many rows on tiles fetch those after them
    static constexpr int groups_ahead = 0;  // how far few rows bring lines into the first cache
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;

    static I_INLINE Bytes load(const uint8_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    template <bool IsHigh>
    static I_INLINE Bytes nibble(Bytes b) {
        const Bytes mask = _mm256_set1_epi8(15);
        return _mm256_and_si256(IsHigh ? _mm256_srli_epi16(b, 4) : b, mask);
    }
    // the Width bits from bit From of each byte, moved to bit To
    template <int Width, int From, int To>
    static I_INLINE Bytes field(Bytes b) {
        const Bytes mask = _mm256_set1_epi8(static_cast<char>(((1 << Width) - 1) << To));
        if constexpr (From > To) b = _mm256_srli_epi16(b, From - To);
        if constexpr (From < To) b = _mm256_slli_epi16(b, To - From);
        return _mm256_and_si256(b, mask);
    }
    static I_INLINE Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
    static I_INLINE Bytes table(const int8_t* values) {
        return _mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }
    static I_INLINE Bytes lookup(Bytes table, Bytes index) {
        return _mm256_shuffle_epi8(table, index);
    }

    static I_INLINE Ints zero() { return _mm256_setzero_si256(); }
    static I_INLINE Ints set_int(int32_t value) { return _mm256_set1_epi32(value); }
    static I_INLINE Ints broadcast_int(const int32_t* p) { return _mm256_set1_epi32(*p); }
    template <int By>
    static I_INLINE Ints shift_left(Ints a) { return _mm256_slli_epi32(a, By); }
    static I_INLINE Bytes four(const int8_t* q) {
        int32_t value;
        std::memcpy(&value, q, 4);
        return _mm256_set1_epi32(value);
    }
    static I_INLINE Ints add_int(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static I_INLINE Ints max_int(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
    static I_INLINE Ints magnitude_bits(Floats a) {
        return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7FFFFFFF));
    }
    // both halves, then pairs, then neighbours
    static I_INLINE int32_t largest(Ints a) {
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
        return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1)));
    }
    static I_INLINE int32_t sum(Ints a) {
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
        return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
    }
    static I_INLINE Ints add_pairs(Ints acc, Ints pairs) {
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    // codes are below 64, so that pairs of products fit 16 bits
    static I_INLINE Ints dot_pairs(Ints pairs, Bytes w, const int8_t* q) {
        return _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, four(q)));
    }
    static I_INLINE Ints dot(Ints acc, Bytes w, const int8_t* q) {
        return add_pairs(acc, dot_pairs(zero(), w, q));
    }
    // to bytes, which is to take 128 off as well
    static I_INLINE Bytes add_128(Bytes w) {
        return _mm256_xor_si256(w, _mm256_set1_epi8(static_cast<char>(-128)));
    }
    // |w| times q with w's sign: 128 * 127 * 2 still fits 16 bits
    static I_INLINE Ints dot_signed(Ints acc, Bytes w, const int8_t* q) {
        const Bytes size = _mm256_sign_epi8(w, w);
        return add_pairs(acc, _mm256_maddubs_epi16(size, _mm256_sign_epi8(four(q), w)));
    }
    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        const Bytes pair = four(reinterpret_cast<const int8_t*>(x));
        const Bytes upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000));
        const Floats first = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                                             _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)), acc);
        return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(w, upper)),
                               _mm256_castsi256_ps(_mm256_and_si256(pair, upper)), first);
    }

    static I_INLINE void stream(float* p, Floats a) { _mm256_stream_ps(p, a); }
    static I_INLINE void stream_bf16(uint16_t* p, Floats a, Floats b) {
        store_bf16(p, a), store_bf16(p + lanes, b);
    }
    static I_INLINE void transpose(Floats (&v)[lanes]) {
        Floats t[lanes];
        for (int i = 0; i < lanes; i += 2) {
            t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
        }
        for (int i = 0; i < lanes; i += 4)
            for (int j = 0; j < 2; ++j) {
                const auto a = _mm256_castps_pd(t[i + j]), b = _mm256_castps_pd(t[i + j + 2]);
                v[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                v[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            }
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
            t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
        }
        for (int i = 0; i < lanes; ++i) v[i] = t[i];
    }
    static I_INLINE void store_bf16(uint16_t* p, Floats a) {
        float values[lanes];
        _mm256_storeu_ps(values, a);
        for (int i = 0; i < lanes; ++i) p[i] = bf16_of_float(values[i]);
    }
    static I_INLINE Floats load_bf16(const uint16_t* p) {
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }

    static I_INLINE Floats zero_float() { return _mm256_setzero_ps(); }
    static I_INLINE Floats broadcast(const float* p) { return _mm256_broadcast_ss(p); }
    static I_INLINE Floats to_float(Ints a) { return _mm256_cvtepi32_ps(a); }
    // a float by its bits
    static I_INLINE Floats float_of(Ints bits) { return _mm256_castsi256_ps(bits); }
    static I_INLINE Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static I_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static I_INLINE Floats negate(Floats a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
    static I_INLINE Floats set(float value) { return _mm256_set1_ps(value); }
    static I_INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static I_INLINE Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
    static I_INLINE Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static I_INLINE Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
    static I_INLINE Floats abs(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static I_INLINE Ints round(Floats a) { return _mm256_cvtps_epi32(a); }
    static I_INLINE Floats power_of_two(Ints n) {
        const Ints exponent = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    }
    static I_INLINE void store_s8(int8_t* p, Ints a) {
        const __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
        const __m128i words = _mm_packs_epi32(low, high);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
    }
    static I_INLINE void store_half(uint16_t* p, Floats a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a, 0));
    }
    static I_INLINE void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }

    static I_INLINE Floats load_float(const void* p) {
        return _mm256_loadu_ps(static_cast<const float*>(p));
    }
    static I_INLINE Floats load_half(const void* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    }
    static I_INLINE __m128i load_8(const uint8_t* p) {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    }
    static I_INLINE Floats load_u8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_8(p)));
    }
    static I_INLINE Floats load_s8(const uint8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8(p)));
    }
    template <bool IsHigh>
    static I_INLINE Floats load_u4(const uint8_t* p) {
        const Ints b = _mm256_cvtepu8_epi32(load_8(p));
        const Ints four = IsHigh ? _mm256_srli_epi32(b, 4)
                                 : _mm256_and_si256(b, _mm256_set1_epi32(15));
        return _mm256_cvtepi32_ps(four);
    }
    // half of 2^(byte - 127): the table of mxfp4 is doubled
    static I_INLINE Floats load_exponent(const uint8_t* p) {
        const Ints e = _mm256_cvtepu8_epi32(load_8(p)), one = _mm256_set1_epi32(1);
        const Ints normal = _mm256_slli_epi32(_mm256_sub_epi32(e, one), 23);
        // of bytes 0 and 1; of others it is less
        const Ints small = _mm256_slli_epi32(_mm256_add_epi32(e, one), 21);
        return _mm256_castsi256_ps(_mm256_max_epi32(normal, small));
    }
};

}  // namespace
}  // namespace expertly
