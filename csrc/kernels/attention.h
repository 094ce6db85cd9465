// Attention of some query rows to one chunk of cached keys and values.
//
// A row runs over the positions that it sees, and over no others, in order: its result does not
// depend on the rows beside it. Rows go together in blocks so that they share loads.
#pragma once

#include <utility>

#include "../kernels.h"
#include "rows.h"

namespace expertly {
namespace {

constexpr float kUnseen = -__builtin_inff();

// how many query rows and vectors of keys or channels are in registers at once
template <class I>
constexpr int kQueryRows = I::lanes == 16 ? 8 : 4;
template <class I>
constexpr int kWide = I::lanes == 4 ? 4 : 2;

// loops over registers: without it gcc keeps these in memory as well
#ifdef __clang__
#define I_UNROLL _Pragma("unroll")
#else
#define I_UNROLL _Pragma("GCC unroll 16")
#endif

template <class I>
I_INLINE typename I::Floats load_as(const float* p) {
    return I::load_float(p);
}
template <class I>
I_INLINE typename I::Floats load_as(const uint16_t* p) {
    return I::load_half(p);
}

template <class I>
I_INLINE float exp_of(float x) {
    float at[I::lanes];
    I::store(at, exp<I>(I::set(x)));
    return at[0];
}

// float16 comes from memory, in pieces too short for the processor to foresee the next ones;
// float32 is in the cache already
I_INLINE void prefetch(const uint16_t* p) { __builtin_prefetch(p, 0, 2); }
I_INLINE void prefetch(const float*) {}

// scores [N][kChunkSize] of kWide vectors of keys; q [N][head_size]; `ahead`: keys of later
template <class I, class T, int N>
void score_tile(const T* keys, const T* ahead, const float* q, int64_t head_size, float* scores) {
    typename I::Floats acc[N][kWide<I>];
    const float* row[N];
    I_UNROLL
    for (int n = 0; n < N; ++n) {
        row[n] = q + n * head_size;
        I_UNROLL
        for (int v = 0; v < kWide<I>; ++v) acc[n][v] = I::zero_float();
    }
    for (int64_t c = 0; c < head_size; ++c) {
        prefetch(ahead + c * kWide<I> * I::lanes);
        typename I::Floats k[kWide<I>];
        I_UNROLL
        for (int v = 0; v < kWide<I>; ++v) {
            const int at = v * I::lanes;
            k[v] = load_as<I>(keys + at / kKeyBlock * kKeyBlock * head_size + at % kKeyBlock);
        }
        I_UNROLL
        for (int n = 0; n < N; ++n) {
            const auto by = I::broadcast(row[n] + c);
            I_UNROLL
            for (int v = 0; v < kWide<I>; ++v) acc[n][v] = I::fma(k[v], by, acc[n][v]);
        }
        keys += kKeyBlock;
    }
    I_UNROLL
    for (int n = 0; n < N; ++n)
        I_UNROLL
        for (int v = 0; v < kWide<I>; ++v)
            I::store(scores + n * kChunkSize + v * I::lanes, acc[n][v]);
}

// parts [N] += shares [N][kChunkSize] times values of `count` positions, W vectors of channels
template <class I, class T, int N, int W>
void value_tile(const T* values, const T* ahead, int64_t stride, const float* shares, int64_t count,
                float* parts, int64_t part_stride) {
    typename I::Floats acc[N][W];
    I_UNROLL
    for (int n = 0; n < N; ++n)
        I_UNROLL
        for (int w = 0; w < W; ++w)
            acc[n][w] = I::load_float(parts + n * part_stride + w * I::lanes);
    for (int64_t i = 0; i < count; ++i) {
        prefetch(ahead + i * stride);
        typename I::Floats v[W];
        I_UNROLL
        for (int w = 0; w < W; ++w) v[w] = load_as<I>(values + w * I::lanes);
        I_UNROLL
        for (int n = 0; n < N; ++n) {
            const auto by = I::broadcast(shares + n * kChunkSize);
            I_UNROLL
            for (int w = 0; w < W; ++w) acc[n][w] = I::fma(v[w], by, acc[n][w]);
        }
        values += stride;
        ++shares;
    }
    I_UNROLL
    for (int n = 0; n < N; ++n)
        I_UNROLL
        for (int w = 0; w < W; ++w)
            I::store(parts + n * part_stride + w * I::lanes, acc[n][w]);
}

template <class T>
using ScoreTile = void (*)(const T*, const T*, const float*, int64_t, float*);
template <class T>
using ValueTile = void (*)(const T*, const T*, int64_t, const float*, int64_t, float*, int64_t);

// entry n - 1 of a table is for n rows
template <class I, class T>
struct Tiles {
    template <int... N>
    static ScoreTile<T> score(int64_t n, std::integer_sequence<int, N...>) {
        static constexpr ScoreTile<T> table[] = {score_tile<I, T, N + 1>...};
        return table[n - 1];
    }
    template <int W, int... N>
    static ValueTile<T> value(int64_t n, std::integer_sequence<int, N...>) {
        static constexpr ValueTile<T> table[] = {value_tile<I, T, N + 1, W>...};
        return table[n - 1];
    }
};

// scores to shares of one row: e^(s - most) where it is seen, 0 in the rest of its blocks
template <class I>
void soften(float* s, int64_t begin, int64_t end, float* most, float* sum) {
    constexpr int parts = kLanes / I::lanes;
    const int64_t from = begin / kLanes * kLanes, to = (end + kLanes - 1) / kLanes * kLanes;
    const auto fill = [&](float value) {
        for (int64_t i = from; i < begin; ++i) s[i] = value;
        for (int64_t i = end; i < to; ++i) s[i] = value;
    };
    fill(kUnseen);
    typename I::Floats top = I::set(kUnseen);
    for (int64_t i = from; i < to; i += I::lanes) top = I::max(I::load_float(s + i), top);
    float lane[kLanes];
    I::store(lane, top);
    *most = kUnseen;
    for (int i = 0; i < I::lanes; ++i) *most = lane[i] > *most ? lane[i] : *most;
    const auto shift = I::set(-*most);
    for (int64_t i = from; i < to; i += I::lanes)
        I::store(s + i, exp<I>(I::add(I::load_float(s + i), shift)));
    fill(0.0f);
    typename I::Floats acc[parts];
    for (int p = 0; p < parts; ++p) acc[p] = I::zero_float();
    for (int64_t i = from; i < to; i += kLanes)
        for (int p = 0; p < parts; ++p)
            acc[p] = I::add(acc[p], I::load_float(s + i + p * I::lanes));
    for (int p = 0; p < parts; ++p) I::store(lane + p * I::lanes, acc[p]);
    *sum = 0.0f;
    for (int i = 0; i < kLanes; ++i) *sum += lane[i];
}

struct Range {
    int64_t begin, end;

    bool is_empty() const { return begin >= end; }
    Range within(int64_t from, int64_t to) const {
        return {begin > from ? begin : from, end < to ? end : to};
    }
};

// some channels of the values of a page
template <class T>
struct Values {
    const T* from;
    const T* ahead;  // the same of a later page
    int64_t stride;
    int64_t first;  // position in the chunk
    int64_t channel;
};

// one chunk: its rows in blocks of kQueryRows, the last one perhaps smaller
template <class I>
struct ChunkRun {
    static constexpr int block = kQueryRows<I>;
    static constexpr int keys_at_once = kWide<I> * I::lanes;
    static constexpr int kLineHalves = 32;
    static_assert(keys_at_once % kKeyBlock == 0 && kPageSize % keys_at_once == 0, "whole blocks");
    using Counts = std::make_integer_sequence<int, block>;

    const AttentionChunk& chunk;
    float* scores;  // [rows][kChunkSize]
    float* q;       // [rows][head_size], scaled
    float* floats;  // a part of a page in float32

    int64_t size(int64_t row) const {
        return chunk.rows - row < block ? chunk.rows - row : block;
    }
    bool is_shared() const { return chunk.rows > block; }
    Range range(int64_t row) const { return {chunk.begin[row], chunk.end[row]}; }

    // seen by any row of a few
    Range reach(int64_t row, int64_t count) const {
        Range all{kChunkSize, 0};
        for (int64_t r = row; r < row + count; ++r) {
            if (range(r).is_empty()) continue;
            if (range(r).begin < all.begin) all.begin = range(r).begin;
            if (range(r).end > all.end) all.end = range(r).end;
        }
        return all;
    }

    // seen by every row of a few
    Range common(int64_t row, int64_t count) const {
        Range both{0, kChunkSize};
        for (int64_t r = row; r < row + count; ++r)
            both = both.within(range(r).begin, range(r).end);
        return both;
    }

    const uint16_t* keys_of(int64_t page) const {
        return reinterpret_cast<const uint16_t*>(chunk.pages[page]);
    }
    const uint16_t* values_of(int64_t page) const {
        return reinterpret_cast<const uint16_t*>(chunk.pages[page] + chunk.values);
    }

    void place_queries() const {
        const int64_t C = chunk.head_size;
        for (int64_t row = 0; row < chunk.rows; ++row)
            for (int64_t c = 0; c < C; ++c) q[row * C + c] = chunk.q[row][c] * chunk.scale;
    }

    template <class T>
    void score_keys(const T* keys, const T* ahead, int64_t first) const {
        const int64_t C = chunk.head_size;
        for (int64_t row = 0; row < chunk.rows; row += block) {
            const int64_t n = size(row);
            if (reach(row, n).within(first, first + keys_at_once).is_empty()) continue;
            const auto tile = Tiles<I, T>::score(n, Counts());
            tile(keys, ahead, q + row * C, C, scores + row * kChunkSize + first);
        }
    }

    // n (whole vectors) float16 to float32
    static void widen(const uint16_t* from, const uint16_t* ahead, int64_t n, float* to) {
        for (int64_t i = 0; i < n; i += I::lanes) {
            if (i % kLineHalves == 0) prefetch(ahead + i);
            I::store(to + i, I::load_half(from + i));
        }
    }

    void score() const {
        const Range all = reach(0, chunk.rows);
        const int64_t C = chunk.head_size;
        for (int64_t first = all.begin / keys_at_once * keys_at_once; first < all.end;
             first += keys_at_once) {
            const int64_t page = first / kPageSize, at = first % kPageSize * C;
            const bool is_last = (page + 1) * kPageSize >= all.end;
            const uint16_t* keys = keys_of(page) + at;
            const uint16_t* next = is_last ? values_of(all.begin / kPageSize) : keys_of(page + 1);
            if (is_shared()) {
                widen(keys, next + at, keys_at_once * C, floats);
                score_keys<float>(floats, floats, first);
            } else {
                score_keys(keys, next + at, first);
            }
        }
    }

    void soften_rows() const {
        const int64_t width = part_width(chunk.head_size), at = mix_width(chunk.head_size);
        for (int64_t row = 0; row < chunk.rows; ++row) {
            float* part = chunk.parts + row * width;
            for (int64_t i = 0; i < at; ++i) part[i] = 0.0f;
            part[at] = kUnseen, part[at + 1] = 0.0f;
            const Range seen = range(row);
            if (seen.is_empty()) continue;
            soften<I>(scores + row * kChunkSize, seen.begin, seen.end, part + at, part + at + 1);
        }
    }

    // rows [row, row + n) take positions `seen` of a page
    template <class T, int W>
    void mix_tile(const Values<T>& v, int64_t row, int64_t n, Range seen) const {
        seen = seen.within(v.first, v.first + kPageSize);
        if (seen.is_empty()) return;
        const auto tile = Tiles<I, T>::template value<W>(n, Counts());
        const int64_t width = part_width(chunk.head_size), at = (seen.begin - v.first) * v.stride;
        tile(v.from + at, v.ahead + at, v.stride, scores + row * kChunkSize + seen.begin,
             seen.end - seen.begin, chunk.parts + row * width + v.channel, width);
    }

    // what all rows of a block see goes together; before and after it each goes alone
    template <class T, int W>
    void mix_rows(const Values<T>& v) const {
        for (int64_t row = 0; row < chunk.rows; row += block) {
            const int64_t n = size(row);
            const Range both = common(row, n);
            const auto each = [&](int64_t from, int64_t to) {
                for (int64_t r = row; r < row + n; ++r)
                    mix_tile<T, W>(v, r, 1, range(r).within(from, to));
            };
            if (both.is_empty()) {
                each(0, kChunkSize);
                continue;
            }
            each(0, both.begin);
            mix_tile<T, W>(v, row, n, both);
            each(both.end, kChunkSize);
        }
    }

    // W vectors of channels from channel c on, of the positions seen in a page
    template <int W>
    void mix_channels(const uint16_t* values, const uint16_t* ahead, int64_t c, Range seen) const {
        const int64_t C = chunk.head_size, first = seen.begin / kPageSize * kPageSize;
        if (!is_shared())
            return mix_rows<uint16_t, W>({values + c, ahead + c, C, first, c});
        constexpr int64_t stride = W * I::lanes;
        for (int64_t i = seen.begin - first; i < seen.end - first; ++i)
            widen(values + i * C + c, ahead + i * C + c, stride, floats + i * stride);
        mix_rows<float, W>({floats, floats, stride, first, c});
    }

    void mix() const {
        const Range all = reach(0, chunk.rows);
        const int64_t C = chunk.head_size;
        for (int64_t page = all.begin / kPageSize; page * kPageSize < all.end; ++page) {
            const bool is_last = (page + 1) * kPageSize >= all.end;
            const uint16_t* values = values_of(page);
            const uint16_t* ahead = is_last ? values : values_of(page + 1);
            const Range seen = all.within(page * kPageSize, (page + 1) * kPageSize);
            int64_t c = 0;
            // the last vectors may reach beyond a row: pages end with padding, and so do parts
            for (; C - c > (kWide<I> - 1) * I::lanes; c += kWide<I> * I::lanes)
                mix_channels<kWide<I>>(values, ahead, c, seen);
            for (; c < C; c += I::lanes) mix_channels<1>(values, ahead, c, seen);
        }
    }
};

template <class I>
void attend_chunk(const AttentionChunk& chunk) {
    float* scores = chunk.room;
    float* q = scores + chunk.rows * kChunkSize;
    float* floats = q + chunk.rows * mix_width(chunk.head_size);
    const ChunkRun<I> run{chunk, scores, q, floats};
    run.place_queries();
    run.score();
    run.soften_rows();
    run.mix();
}

template <class I>
void merge_parts(const float* part, int64_t head_size, float* into) {
    const int64_t width = mix_width(head_size);
    if (part[width + 1] == 0.0f) return;
    if (into[width + 1] == 0.0f) {
        for (int64_t i = 0; i < width + 2; ++i) into[i] = part[i];
        return;
    }
    const float a = into[width], b = part[width], most = a > b ? a : b;
    const float old_by = exp_of<I>(a - most), new_by = exp_of<I>(b - most);
    into[width] = most;
    into[width + 1] = into[width + 1] * old_by + part[width + 1] * new_by;
    const auto by = I::set(old_by), add_by = I::set(new_by);
    for (int64_t i = 0; i < width; i += I::lanes) {
        const auto old = I::mul(I::load_float(into + i), by);
        I::store(into + i, I::fma(I::load_float(part + i), add_by, old));
    }
}

template <class I>
void finish_part(const float* part, float sink, int64_t head_size, float* y) {
    const int64_t width = mix_width(head_size);
    float sum = part[width + 1], by = 1.0f;
    if (sink != kUnseen) {
        const float most = part[width] > sink ? part[width] : sink;
        by = exp_of<I>(part[width] - most);
        sum = sum * by + exp_of<I>(sink - most);
    }
    by /= sum;
    for (int64_t c = 0; c < head_size; ++c) y[c] = part[c] * by;
}

template <class I>
void to_half(const float* x, int64_t n, uint16_t* y) {
    const auto top = I::set(65504.0f), low = I::set(-65504.0f);
    const auto each = [&](const float* from, uint16_t* to) {
        // a NaN comes second, which is what these give
        I::store_half(to, I::min(top, I::max(low, I::load_float(from))));
    };
    const int64_t whole = n / I::lanes * I::lanes;
    for (int64_t i = 0; i < whole; i += I::lanes) each(x + i, y + i);
    if (whole == n) return;
    float rest[I::lanes] = {};
    uint16_t half[I::lanes];
    for (int64_t i = whole; i < n; ++i) rest[i - whole] = x[i];
    each(rest, half);
    for (int64_t i = whole; i < n; ++i) y[i] = half[i - whole];
}

template <class I>
void rotate(const float* cos, const float* sin, int64_t half, float* x) {
    for (int64_t i = 0; i < half; ++i) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cos[i] - second * sin[i];
        x[i + half] = second * cos[i] + first * sin[i];
    }
}

template <class I>
constexpr AttentionKernels make_attention() {
    return {attend_chunk<I>, merge_parts<I>, finish_part<I>, to_half<I>, rotate<I>};
}

}  // namespace
}  // namespace expertly
