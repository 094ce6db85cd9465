// Panels of factors, and their products in registers.
#pragma once

#include <cstring>
#include <utility>

#include "../gemm.h"
#include "../half.h"

namespace expertly {
namespace {

// floats; floats that bfloat16 can hold; or pairs of bfloat16, of two k each
enum class Factors { floats, rounded, pairs };

template <class T>
I_INLINE float as_float(T value) {
    if constexpr (sizeof(T) == 4) return value;
    else return float_of_bf16(value);
}

template <class I>
I_INLINE typename I::Floats load_number(const float* p) { return I::load_float(p); }
template <class I>
I_INLINE typename I::Floats load_number(const uint16_t* p) { return I::load_bf16(p); }

template <class T>
I_INLINE uint16_t as_bf16(T value) {
    if constexpr (sizeof(T) == 2) return value;
    else return bf16_of_float(value);
}

template <Factors F, class T>
I_INLINE float factor(T value) {
    if constexpr (F == Factors::rounded) return float_of_bf16(as_bf16(value));
    else return as_float(value);
}

// a vector of words of a row from k on: floats, or pairs; past `steps` zeros
template <class I, Factors F, class T>
I_INLINE typename I::Floats words_of(const T* row, int64_t k, int64_t steps) {
    constexpr int numbers = F == Factors::pairs ? 2 * I::lanes : I::lanes;
    T part[numbers];
    if (k + numbers > steps) {
        for (int i = 0; i < numbers; ++i) part[i] = k + i < steps ? row[k + i] : T{0};
        row = part, k = 0;
    }
    if constexpr (F == Factors::pairs) {
        if constexpr (sizeof(T) == 2) return I::load_float(row + k);
        uint16_t pairs[numbers];
        I::store_bf16(pairs, load_number<I>(row + k));
        I::store_bf16(pairs + I::lanes, load_number<I>(row + k + I::lanes));
        return I::load_float(pairs);
    } else if constexpr (F == Factors::rounded && sizeof(T) == 4) {
        uint16_t rounded[numbers];
        I::store_bf16(rounded, I::load_float(row + k));
        return I::load_bf16(rounded);
    } else {
        return load_number<I>(row + k);
    }
}

// k along the rows of the view: squares of it turned
template <class I, Factors F, class T, int W>
void pack_across(const View& from, const Piece& piece, void* panel) {
    constexpr int each = F == Factors::pairs ? 2 : 1;
    float* to = static_cast<float*>(panel);
    const int64_t words = (piece.steps + each - 1) / each;
    for (int i = 0; i < W; i += I::lanes) {
        const T* rows[I::lanes];
        const int wide = W - i < I::lanes ? W - i : I::lanes;
        for (int j = 0; j < I::lanes; ++j)
            rows[j] = i + j < piece.count && j < wide
                ? reinterpret_cast<const T*>(from.row(piece.row + i + j)) + piece.column : nullptr;
        for (int64_t k = 0; k < words; k += I::lanes) {
            typename I::Floats square[I::lanes];
            for (int j = 0; j < I::lanes; ++j)
                square[j] = rows[j] ? words_of<I, F>(rows[j], k * each, piece.steps)
                                    : I::zero_float();
            I::transpose(square);
            const int deep = words - k < I::lanes ? static_cast<int>(words - k) : I::lanes;
            if (wide == I::lanes && deep == I::lanes) {
                for (int j = 0; j < I::lanes; ++j) I::store(to + (k + j) * W + i, square[j]);
                continue;
            }
            for (int j = 0; j < deep; ++j) {
                float row[I::lanes];
                I::store(row, square[j]);
                std::memcpy(to + (k + j) * W + i, row, static_cast<size_t>(wide) * 4);
            }
        }
    }
}

// k down the rows of the view
template <Factors F, class T, int W>
void pack_along(const View& from, const Piece& piece, void* panel) {
    const auto at = [&](int64_t k) {
        return reinterpret_cast<const T*>(from.row(piece.row + k)) + piece.column;
    };
    if constexpr (F == Factors::pairs) {
        static const T zeros[W] = {};
        for (int64_t k = 0; k < piece.steps; k += 2) {
            uint16_t* to = static_cast<uint16_t*>(panel) + k * W;
            const T* first = at(k);
            const T* second = k + 1 < piece.steps ? at(k + 1) : zeros;
            if (piece.count == W)
                for (int i = 0; i < W; ++i)
                    to[2 * i] = as_bf16(first[i]), to[2 * i + 1] = as_bf16(second[i]);
            else
                for (int i = 0; i < W; ++i) {
                    to[2 * i] = i < piece.count ? as_bf16(first[i]) : uint16_t{0};
                    to[2 * i + 1] = i < piece.count ? as_bf16(second[i]) : uint16_t{0};
                }
        }
    } else {
        for (int64_t k = 0; k < piece.steps; ++k) {
            float* to = static_cast<float*>(panel) + k * W;
            const T* row = at(k);
            if (piece.count == W)
                for (int i = 0; i < W; ++i) to[i] = factor<F>(row[i]);
            else
                for (int i = 0; i < W; ++i) to[i] = i < piece.count ? factor<F>(row[i]) : 0.0f;
        }
    }
}

// vectors of the answer's columns side by side in registers
constexpr int kVectors = 2;

template <bool IsIndexed>
I_INLINE const uint8_t* step_of(const Steps& steps, int64_t k) {
    return steps.data + (IsIndexed ? steps.index[k] : k) * steps.stride;
}

template <class I>
I_INLINE void put(float* to, typename I::Floats sum) { I::store(to, sum); }
template <class I>
I_INLINE void put(uint16_t* to, typename I::Floats sum) { I::store_bf16(to, sum); }

// past the caches; `to` is aligned to a vector
template <class I>
I_INLINE void stream(float* to, const typename I::Floats (&sum)[kVectors]) {
    for (int j = 0; j < kVectors; ++j) I::stream(to + j * I::lanes, sum[j]);
}
template <class I>
I_INLINE void stream(uint16_t* to, const typename I::Floats (&sum)[kVectors]) {
    I::stream_bf16(to, sum[0], sum[1]);
}

template <class I, Factors F, class C, int M, bool IsIndexedA, bool IsIndexedB>
void panel_product(const Term* terms, int num_terms, int n, C* c, int64_t stride) {
    constexpr int width = kVectors * I::lanes;
    typename I::Floats sum[M][kVectors];
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < kVectors; ++j) sum[i][j] = I::zero_float();
    for (const Term* term = terms; term < terms + num_terms; ++term) {
        const Steps a = term->a, b = term->b;
        if constexpr (F == Factors::pairs) {
            for (int64_t k = 0; k < (term->steps + 1) / 2; ++k) {
                const auto x = reinterpret_cast<const uint16_t*>(step_of<false>(a, k));
                const uint8_t* w = step_of<false>(b, k);
                typename I::Bytes two[kVectors];
                for (int j = 0; j < kVectors; ++j) two[j] = I::load(w + j * 4 * I::lanes);
                for (int i = 0; i < M; ++i)
                    for (int j = 0; j < kVectors; ++j)
                        sum[i][j] = I::dot_bf16(sum[i][j], two[j], x + 2 * i);
            }
        } else {
            for (int64_t k = 0; k < term->steps; ++k) {
                const auto x = reinterpret_cast<const float*>(step_of<IsIndexedA>(a, k));
                const auto w = reinterpret_cast<const float*>(step_of<IsIndexedB>(b, k));
                typename I::Floats at[kVectors];
                for (int j = 0; j < kVectors; ++j) at[j] = I::load_float(w + j * I::lanes);
                for (int i = 0; i < M; ++i) {
                    const auto by = I::broadcast(x + i);
                    for (int j = 0; j < kVectors; ++j) sum[i][j] = I::fma(by, at[j], sum[i][j]);
                }
            }
        }
    }
    for (int i = 0; i < M; ++i) {
        C row[width];
        C* to = n == width ? c + i * stride : row;
        const bool is_whole = reinterpret_cast<uintptr_t>(to) % sizeof(typename I::Floats) == 0;
        if (terms->is_last_use && n == width && is_whole) {
            stream<I>(to, sum[i]);
            continue;
        }
        for (int j = 0; j < kVectors; ++j) put<I>(to + j * I::lanes, sum[i][j]);
        if (n < width) std::memcpy(c + i * stride, row, static_cast<size_t>(n) * sizeof(C));
    }
}

template <class C>
using Product = void (*)(const Term*, int, int, C*, int64_t);

template <class I, Factors F, class C, bool IsIndexedA, bool IsIndexedB, int... M>
Product<C> product_of(int m, std::integer_sequence<int, M...>) {
    static constexpr Product<C> table[] = {
        panel_product<I, F, C, M + 1, IsIndexedA, IsIndexedB>...};
    return table[m - 1];
}

template <class I, Factors F, class C>
void multiply_panels(const Term* terms, int num_terms, int m, int n, void* c, int64_t stride) {
    const auto sizes = std::make_integer_sequence<int, I::gemm_rows>();
    Product<C> product = product_of<I, F, C, false, false>(m, sizes);
    if constexpr (F == Factors::floats) {
        const bool a = terms->a.index, b = terms->b.index;
        if (a && b) product = product_of<I, F, C, true, true>(m, sizes);
        else if (a) product = product_of<I, F, C, true, false>(m, sizes);
        else if (b) product = product_of<I, F, C, false, true>(m, sizes);
    }
    product(terms, num_terms, n, static_cast<C*>(c), stride);
}

template <class I>
void narrow(const float* x, int64_t n, uint16_t* y) {
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes) I::store_bf16(y + i, I::load_float(x + i));
    for (int64_t i = whole; i < n; ++i) y[i] = bf16_of_float(x[i]);
}

template <class I>
void widen(const uint16_t* x, int64_t n, float* y) {
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes) I::store(y + i, I::load_bf16(x + i));
    for (int64_t i = whole; i < n; ++i) y[i] = float_of_bf16(x[i]);
}

template <class I, Factors F>
constexpr Gemm make_gemm() {
    constexpr int rows = I::gemm_rows, columns = kVectors * I::lanes;
    constexpr bool in_pairs = F == Factors::pairs;
    return Gemm{rows, columns, in_pairs ? 2 : 4, in_pairs ? 2 : 1, F == Factors::floats,
                {{{pack_across<I, F, float, rows>, pack_along<F, float, rows>},
                  {pack_across<I, F, float, columns>, pack_along<F, float, columns>}},
                 {{pack_across<I, F, uint16_t, rows>, pack_along<F, uint16_t, rows>},
                  {pack_across<I, F, uint16_t, columns>, pack_along<F, uint16_t, columns>}}},
                {multiply_panels<I, F, float>, multiply_panels<I, F, uint16_t>},
                narrow<I>, widen<I>};
}

}  // namespace
}  // namespace expertly
