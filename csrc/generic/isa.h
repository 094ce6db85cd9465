// Plain C++: the definition that every other instruction set repeats.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../half.h"

#define I_INLINE inline __attribute__((always_inline))

namespace expertly {
namespace {

struct Generic {
    static constexpr int lanes = 4;
    static constexpr int max_rows = 4;
    static constexpr int gemm_rows = 4;  // with two vectors each
    static constexpr bool multiplies_bf16 = false;  // quicker than floats
    static constexpr int max_sums = 0;  // rows times tiles side by side; 0: a tile by itself
    static constexpr bool adds_128 = false;
    static constexpr bool has_pairs = false;
    static constexpr bool reads_ahead = false;  // codes before they are asked for
    static constexpr int fetch_rows = 1;  // from so many rows on tiles fetch those after them
    static constexpr int groups_ahead = 0;  // how far few rows bring lines into the first cache
    struct Bytes { uint8_t at[4 * lanes]; };
    struct Ints { int32_t at[lanes]; };
    struct Floats { float at[lanes]; };

    template <class V, class F>
    static I_INLINE V make(F each) {
        V v;
        for (int i = 0; i < static_cast<int>(sizeof(v.at) / sizeof(v.at[0])); ++i) v.at[i] = each(i);
        return v;
    }
    template <class F>
    static I_INLINE Bytes bytes(F each) {
        return make<Bytes>([&](int i) { return static_cast<uint8_t>(each(i)); });
    }

    static I_INLINE Bytes load(const uint8_t* p) { return bytes([&](int i) { return p[i]; }); }
    template <bool IsHigh>
    static I_INLINE Bytes nibble(Bytes b) {
        return bytes([&](int i) { return IsHigh ? b.at[i] >> 4 : b.at[i] & 15; });
    }
    template <int Width, int From, int To>
    static I_INLINE Bytes field(Bytes b) {
        return bytes([&](int i) { return ((b.at[i] >> From) & ((1 << Width) - 1)) << To; });
    }
    static I_INLINE Bytes either(Bytes a, Bytes b) {
        return bytes([&](int i) { return a.at[i] | b.at[i]; });
    }
    // a table of 16 fills the bytes of 4 rows exactly
    static I_INLINE Bytes table(const int8_t* values) {
        return bytes([&](int i) { return values[i]; });
    }
    static I_INLINE Bytes lookup(Bytes table, Bytes index) {
        return bytes([&](int i) { return table.at[index.at[i]]; });
    }

    static I_INLINE Ints zero() { return make<Ints>([](int) { return 0; }); }
    static I_INLINE Ints set_int(int32_t value) {
        return make<Ints>([&](int) { return value; });
    }
    static I_INLINE Ints broadcast_int(const int32_t* p) {
        return make<Ints>([&](int) { return *p; });
    }
    template <int By>
    static I_INLINE Ints shift_left(Ints a) {
        return make<Ints>([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.at[i]) << By); });
    }
    static I_INLINE Ints add_int(Ints a, Ints b) {
        return make<Ints>([&](int i) {
            const auto bits = static_cast<uint32_t>(a.at[i]);
            return static_cast<int32_t>(bits + static_cast<uint32_t>(b.at[i]));
        });
    }
    static I_INLINE Ints max_int(Ints a, Ints b) {
        return make<Ints>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static I_INLINE Ints magnitude_bits(Floats a) {
        return make<Ints>([&](int i) {
            int32_t bits;
            std::memcpy(&bits, &a.at[i], 4);
            return bits & 0x7FFFFFFF;
        });
    }
    static I_INLINE int32_t largest(Ints a) {
        int32_t most = a.at[0];
        for (int i = 1; i < lanes; ++i) most = a.at[i] > most ? a.at[i] : most;
        return most;
    }
    static I_INLINE int32_t sum(Ints a) {
        int32_t sum = 0;
        for (int i = 0; i < lanes; ++i) sum += a.at[i];
        return sum;
    }
    static I_INLINE Ints dot(Ints acc, Bytes w, const int8_t* q) {
        return make<Ints>([&](int i) {
            int32_t sum = acc.at[i];
            for (int j = 0; j < 4; ++j) sum += w.at[4 * i + j] * q[j];
            return sum;
        });
    }
    // to bytes, which is to take 128 off as well
    static I_INLINE Bytes add_128(Bytes w) {
        return bytes([&](int i) { return w.at[i] ^ 128; });
    }
    static I_INLINE Ints dot_signed(Ints acc, Bytes w, const int8_t* q) {
        return make<Ints>([&](int i) {
            int32_t sum = acc.at[i];
            for (int j = 0; j < 4; ++j) sum += static_cast<int8_t>(w.at[4 * i + j]) * q[j];
            return sum;
        });
    }
    static I_INLINE Floats dot_bf16(Floats acc, Bytes w, const uint16_t* x) {
        return make<Floats>([&](int i) {
            uint16_t pair[2];
            std::memcpy(pair, w.at + 4 * i, 4);
            const float first = std::fma(float_of_bf16(pair[0]), float_of_bf16(x[0]), acc.at[i]);
            return std::fma(float_of_bf16(pair[1]), float_of_bf16(x[1]), first);
        });
    }

    static I_INLINE void stream(float* p, Floats a) { store(p, a); }
    static I_INLINE void stream_bf16(uint16_t* p, Floats a, Floats b) {
        store_bf16(p, a), store_bf16(p + lanes, b);
    }
    static I_INLINE void transpose(Floats (&v)[lanes]) {
        for (int i = 0; i < lanes; ++i)
            for (int j = 0; j < i; ++j) {
                const float other = v[i].at[j];
                v[i].at[j] = v[j].at[i], v[j].at[i] = other;
            }
    }
    static I_INLINE void store_bf16(uint16_t* p, Floats a) {
        for (int i = 0; i < lanes; ++i) p[i] = bf16_of_float(a.at[i]);
    }
    static I_INLINE Floats load_bf16(const uint16_t* p) {
        return make<Floats>([&](int i) { return float_of_bf16(p[i]); });
    }

    static I_INLINE Floats zero_float() { return make<Floats>([](int) { return 0.0f; }); }
    static I_INLINE Floats broadcast(const float* p) {
        return make<Floats>([&](int) { return *p; });
    }
    static I_INLINE Floats to_float(Ints a) {
        return make<Floats>([&](int i) { return static_cast<float>(a.at[i]); });
    }
    // a float by its bits
    static I_INLINE Floats float_of(Ints bits) {
        return make<Floats>([&](int i) { return float_of_bits(static_cast<uint32_t>(bits.at[i])); });
    }
    static I_INLINE Floats mul(Floats a, Floats b) {
        return make<Floats>([&](int i) { return a.at[i] * b.at[i]; });
    }
    static I_INLINE Floats fma(Floats a, Floats b, Floats c) {
        return make<Floats>([&](int i) { return std::fma(a.at[i], b.at[i], c.at[i]); });
    }
    static I_INLINE Floats negate(Floats a) {
        return make<Floats>([&](int i) { return -a.at[i]; });
    }
    static I_INLINE Floats set(float value) {
        return make<Floats>([&](int) { return value; });
    }
    static I_INLINE Floats add(Floats a, Floats b) {
        return make<Floats>([&](int i) { return a.at[i] + b.at[i]; });
    }
    static I_INLINE Floats div(Floats a, Floats b) {
        return make<Floats>([&](int i) { return a.at[i] / b.at[i]; });
    }
    // of two equal values or a NaN the second, as the processors' instructions have it
    static I_INLINE Floats max(Floats a, Floats b) {
        return make<Floats>([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
    }
    static I_INLINE Floats min(Floats a, Floats b) {
        return make<Floats>([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
    }
    static I_INLINE Floats abs(Floats a) {
        return make<Floats>([&](int i) { return std::fabs(a.at[i]); });
    }
    // to nearest, ties to even; magnitudes below 2^22
    static I_INLINE Ints round(Floats a) {
        return make<Ints>([&](int i) {
            return static_cast<int32_t>(bits_of_float(a.at[i] + 12582912.0f) - 0x4B400000u);
        });
    }
    // 2^n, n in -126..127
    static I_INLINE Floats power_of_two(Ints n) {
        return make<Floats>(
            [&](int i) { return float_of_bits(static_cast<uint32_t>(n.at[i] + 127) << 23); });
    }
    static I_INLINE void store_s8(int8_t* p, Ints a) {
        for (int i = 0; i < lanes; ++i) p[i] = static_cast<int8_t>(a.at[i]);
    }
    static I_INLINE void store_half(uint16_t* p, Floats a) {
        for (int i = 0; i < lanes; ++i) p[i] = half_of_float(a.at[i]);
    }
    static I_INLINE void store(float* p, Floats a) { std::memcpy(p, a.at, sizeof(a.at)); }

    static I_INLINE Floats load_float(const void* p) {
        Floats v;
        std::memcpy(v.at, p, sizeof(v.at));
        return v;
    }
    static I_INLINE Floats load_half(const void* p) {
        uint16_t half[lanes];
        std::memcpy(half, p, sizeof(half));
        return make<Floats>([&](int i) { return float_of_half(half[i]); });
    }
    static I_INLINE Floats load_u8(const uint8_t* p) {
        return make<Floats>([&](int i) { return static_cast<float>(p[i]); });
    }
    static I_INLINE Floats load_s8(const uint8_t* p) {
        return make<Floats>([&](int i) { return static_cast<float>(static_cast<int8_t>(p[i])); });
    }
    template <bool IsHigh>
    static I_INLINE Floats load_u4(const uint8_t* p) {
        return make<Floats>(
            [&](int i) { return static_cast<float>(IsHigh ? p[i] >> 4 : p[i] & 15); });
    }
    static I_INLINE Floats load_exponent(const uint8_t* p) {
        return make<Floats>([&](int i) { return half_of_exponent(p[i]); });
    }
};

}  // namespace
}  // namespace expertly
