// Quantised tiles: 16 rows of weights against n rows of int8 activations.
//
// Written once over an instruction set `I`, whose vectors hold I::lanes of the 16 rows. Integer
// dot products within a group are exact; groups are added in order by one fused multiply-add, so
// a result depends neither on n nor on how rows are blocked.
#pragma once

#include "../kernels.h"
#include "fetch.h"

namespace expertly {
namespace {

// where a part of a tile (I::lanes of its rows) lies
struct Planes {
    const uint8_t* supers;
    const uint8_t* scales;
    const uint8_t* high;
    const uint8_t* codes;
};

template <class I, Codes C, bool IsTable>
struct Steps;  // the 4-column step J of group g as bytes

template <class I>
struct Steps<I, Codes::nibbles, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        return I::template nibble<(J >= 4)>(I::load(p.codes + g * 256 + (J % 4) * 64 + part));
    }
};

template <class I>
struct Steps<I, Codes::nibbles, true> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes table) {
        return I::lookup(table, Steps<I, Codes::nibbles, false>::template get<J>(p, g, part, table));
    }
};

template <class I>
struct Steps<I, Codes::bytes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        return I::load(p.codes + g * 512 + J * 64 + part);
    }
};

template <class I>
struct Steps<I, Codes::fives, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = Steps<I, Codes::nibbles, false>::template get<J>(p, g, part, none);
        const auto bits = I::template field<1, J, 4>(I::load(p.high + g * 64 + part));
        return I::either(low, bits);
    }
};

template <class I>
struct Steps<I, Codes::sixes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = Steps<I, Codes::nibbles, false>::template get<J>(p, g, part, none);
        const auto high = I::load(p.high + g * 128 + (J / 4) * 64 + part);
        return I::either(low, I::template field<2, 2 * (J % 4), 4>(high));
    }
};

template <class I>
struct Steps<I, Codes::twos, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        const auto pairs = I::load(p.codes + g * 128 + (J / 4) * 64 + part);
        return I::template field<2, 2 * (J % 4), 0>(pairs);
    }
};

template <class I>
struct Steps<I, Codes::threes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = Steps<I, Codes::twos, false>::template get<J>(p, g, part, none);
        const auto bits = I::template field<1, J, 2>(I::load(p.high + g * 64 + part));
        return I::either(low, bits);
    }
};

// scale (and minimum) of the columns of group g; half 1 is its upper 16 columns
template <class I, Scales S>
struct Scale;

template <class I>
struct Scale<I, Scales::half> {
    static typename I::Floats scale(const Planes& p, int64_t g, int, int lane) {
        return I::load_half(p.scales + g * 32 + lane * 2);
    }
};

template <class I>
struct Scale<I, Scales::half_min> {
    static typename I::Floats scale(const Planes& p, int64_t g, int, int lane) {
        return I::load_half(p.scales + g * 64 + lane * 2);
    }
    static typename I::Floats min(const Planes& p, int64_t g, int, int lane) {
        return I::load_half(p.scales + g * 64 + 32 + lane * 2);
    }
};

template <class I>
struct Scale<I, Scales::exponent> {
    static typename I::Floats scale(const Planes& p, int64_t g, int, int lane) {
        return I::load_exponent(p.scales + g * 16 + lane);
    }
};

template <class I>
struct Scale<I, Scales::bytes_min> {
    static typename I::Floats scale(const Planes& p, int64_t g, int, int lane) {
        const auto d = I::load_half(p.supers + g / 8 * 64 + lane * 2);
        return I::mul(d, I::load_u8(p.scales + g * 32 + lane));
    }
    static typename I::Floats min(const Planes& p, int64_t g, int, int lane) {
        const auto d = I::load_half(p.supers + g / 8 * 64 + 32 + lane * 2);
        return I::negate(I::mul(d, I::load_u8(p.scales + g * 32 + 16 + lane)));
    }
};

template <class I>
struct Scale<I, Scales::row_min> {
    static typename I::Floats scale(const Planes& p, int64_t g, int, int lane) {
        const auto d = I::load_float(p.supers + lane * 4);
        return I::mul(d, I::load_u8(p.scales + g * 32 + lane));
    }
    static typename I::Floats min(const Planes& p, int64_t g, int, int lane) {
        const auto d = I::load_float(p.supers + 64 + lane * 4);
        return I::negate(I::mul(d, I::load_u8(p.scales + g * 32 + 16 + lane)));
    }
};

template <class I>
struct Scale<I, Scales::half_groups> {
    static typename I::Floats scale(const Planes& p, int64_t g, int half, int lane) {
        const auto d = I::load_half(p.supers + g / 8 * 32 + lane * 2);
        return I::mul(d, I::load_s8(p.scales + g * 32 + half * 16 + lane));
    }
};

template <class I>
struct Scale<I, Scales::half_groups_min> {
    static typename I::Floats scale(const Planes& p, int64_t g, int half, int lane) {
        const auto d = I::load_half(p.supers + g / 8 * 64 + lane * 2);
        return I::mul(d, I::template load_u4<false>(p.scales + g * 32 + half * 16 + lane));
    }
    static typename I::Floats min(const Planes& p, int64_t g, int half, int lane) {
        const auto d = I::load_half(p.supers + g / 8 * 64 + 32 + lane * 2);
        const auto m = I::template load_u4<true>(p.scales + g * 32 + half * 16 + lane);
        return I::negate(I::mul(d, m));
    }
};

constexpr bool has_min(Scales s) {
    return s == Scales::half_min || s == Scales::bytes_min || s == Scales::row_min ||
           s == Scales::half_groups_min;
}

constexpr bool has_halves(Scales s) {
    return s == Scales::half_groups || s == Scales::half_groups_min;
}

constexpr int log2_of(int power) { return power <= 1 ? 0 : 1 + log2_of(power / 2); }

template <class I, Format F, int N>
struct Block {
    static constexpr Scheme scheme = scheme_of(F);
    static constexpr bool is_table = F == Format::iq4_nl || F == Format::mxfp4;
    static constexpr bool is_halved = has_halves(scheme.scales);
    // unsigned dot products of signed codes take 128 too much a code
    static constexpr int offset =
        scheme.is_signed ? (I::adds_128 ? 128 : 0) : scheme.offset;
    using S = Steps<I, scheme.codes, is_table>;
    using W = Scale<I, scheme.scales>;
    using Ints = typename I::Ints;
    using Floats = typename I::Floats;

    Planes p;
    int lane;  // the first of the I::lanes rows computed here
    typename I::Bytes table;
    const uint8_t* x;       // the group's record, all N rows at fixed distances
    const uint8_t* halves;  // its halves' record
    Floats y[N];

    static const int32_t* int_at(const uint8_t* at) {
        return reinterpret_cast<const int32_t*>(at);
    }
    static const float* float_at(const uint8_t* at) { return reinterpret_cast<const float*>(at); }

    I_INLINE Ints start(int t, int half) const {
        if constexpr (offset == 0) return I::zero();
        const uint8_t* minus = is_halved ? halves + t * 8 + half * 4 : x + N * kMinusAt + t * 4;
        return I::template shift_left<log2_of(offset)>(I::broadcast_int(int_at(minus)));
    }

    template <int J>
    I_INLINE void step(int64_t g, Ints* acc) const {
        auto w = S::template get<J>(p, g, lane * 4, table);
        if constexpr (scheme.is_signed) w = I::prepare_signed(w);
        for (int t = 0; t < N; ++t) {
            const auto* q = reinterpret_cast<const int8_t*>(x + t * kGroup + J * 4);
            if constexpr (scheme.is_signed) acc[t] = I::dot_signed(acc[t], w, q);
            else acc[t] = I::dot(acc[t], w, q);
        }
    }

    I_INLINE void add(int64_t g, int half, const Ints* acc) {
        const Floats s = W::scale(p, g, half, lane);
        for (int t = 0; t < N; ++t) {
            const Floats by = I::mul(s, I::broadcast(float_at(x + N * kScaleAt + t * 4)));
            y[t] = I::fma(I::to_float(acc[t]), by, y[t]);
        }
        if constexpr (has_min(scheme.scales)) {
            const Floats m = W::min(p, g, half, lane);
            for (int t = 0; t < N; ++t) {
                const uint8_t* sum =
                    is_halved ? halves + N * 8 + t * 8 + half * 4 : x + N * kSumAt + t * 4;
                y[t] = I::fma(m, I::broadcast(float_at(sum)), y[t]);
            }
        }
    }

    I_INLINE void half_group(int64_t g) {
        Ints acc[N];
        for (int t = 0; t < N; ++t) acc[t] = start(t, 0);
        step<0>(g, acc), step<1>(g, acc), step<2>(g, acc), step<3>(g, acc);
        add(g, 0, acc);
        for (int t = 0; t < N; ++t) acc[t] = start(t, 1);
        step<4>(g, acc), step<5>(g, acc), step<6>(g, acc), step<7>(g, acc);
        add(g, 1, acc);
    }

    // steps that share bytes follow each other; integers add up alike in any order
    I_INLINE void whole_group(int64_t g) {
        Ints acc[N], other[N];
        const bool is_short = N <= 2;  // a single chain of sums would wait for itself
        for (int t = 0; t < N; ++t) acc[t] = start(t, 0), other[t] = I::zero();
        Ints* high = is_short ? other : acc;
        step<0>(g, acc), step<4>(g, high), step<1>(g, acc), step<5>(g, high);
        step<2>(g, acc), step<6>(g, high), step<3>(g, acc), step<7>(g, high);
        if (is_short)
            for (int t = 0; t < N; ++t) acc[t] = I::add_int(acc[t], other[t]);
        add(g, 0, acc);
    }

    I_INLINE void run(int64_t groups, Fetch& fetch) {
        for (int t = 0; t < N; ++t) y[t] = I::zero_float();
        for (int64_t g = 0; g < groups; ++g) {
            fetch.next();
            if constexpr (is_halved) half_group(g);
            else whole_group(g);
            x += N * kRecordBytes;
            halves += N * kHalvesBytes;
        }
    }
};

template <class I, Format F>
I_INLINE typename I::Bytes table_of() {
    if constexpr (F == Format::iq4_nl) return I::table(kIq4Table);
    if constexpr (F == Format::mxfp4) return I::table(kMxfp4Table);
    return typename I::Bytes{};
}

// M tiles at once, each number of activations fetched for all of them: for few rows, whose sums
// alone would wait for each other
template <class I, Format F, int N, int M>
struct Wide {
    using B = Block<I, F, N>;
    using Ints = typename I::Ints;

    B (&blocks)[M];

    template <int J>
    I_INLINE void step(int64_t g, Ints (&acc)[M][N]) const {
        for (int k = 0; k < M; ++k) blocks[k].template step<J>(g, acc[k]);
    }

    I_INLINE void half_group(int64_t g) {
        Ints acc[M][N];
        start(0, acc);
        step<0>(g, acc), step<1>(g, acc), step<2>(g, acc), step<3>(g, acc);
        add(g, 0, acc);
        start(1, acc);
        step<4>(g, acc), step<5>(g, acc), step<6>(g, acc), step<7>(g, acc);
        add(g, 1, acc);
    }

    I_INLINE void whole_group(int64_t g) {
        Ints acc[M][N];
        start(0, acc);
        step<0>(g, acc), step<4>(g, acc), step<1>(g, acc), step<5>(g, acc);
        step<2>(g, acc), step<6>(g, acc), step<3>(g, acc), step<7>(g, acc);
        add(g, 0, acc);
    }

    I_INLINE void start(int half, Ints (&acc)[M][N]) const {
        for (int t = 0; t < N; ++t) {
            const Ints first = blocks[0].start(t, half);
            for (int k = 0; k < M; ++k) acc[k][t] = first;
        }
    }

    I_INLINE void add(int64_t g, int half, const Ints (&acc)[M][N]) {
        for (int k = 0; k < M; ++k) blocks[k].add(g, half, acc[k]);
    }

    I_INLINE void run(int64_t groups, Fetch& fetch) {
        for (int k = 0; k < M; ++k)
            for (int t = 0; t < N; ++t) blocks[k].y[t] = I::zero_float();
        const uint8_t* x = blocks[0].x;
        const uint8_t* halves = blocks[0].halves;
        for (int64_t g = 0; g < groups; ++g) {
            fetch.next();
            for (int k = 0; k < M; ++k) blocks[k].x = x, blocks[k].halves = halves;
            if constexpr (B::is_halved) half_group(g);
            else whole_group(g);
            x += N * kRecordBytes;
            halves += N * kHalvesBytes;
        }
    }
};

// M tiles; those of an instruction set with half tiles are computed a half at a time
template <class I, Format F, int N, int M>
void block(const uint8_t* tile, const Layout& layout, const Panel& x, Fetch& fetch, float* y,
           int64_t stride) {
    Planes planes[M];
    for (int k = 0; k < M; ++k) {
        const uint8_t* at = tile + k * layout.tile_bytes;
        planes[k] = {at, at + layout.scales, at + layout.high, at + layout.codes};
    }
    const auto begin = [&](int k, int lane) {
        return Block<I, F, N>{planes[k], lane, table_of<I, F>(), x.groups, x.halves, {}};
    };
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        if constexpr (M == 1) {
            auto b = begin(0, lane);
            b.run(layout.groups, fetch);
            for (int t = 0; t < N; ++t) I::store(y + t * stride + lane, b.y[t]);
        } else {
            Block<I, F, N> b[M];
            for (int k = 0; k < M; ++k) b[k] = begin(k, lane);
            Wide<I, F, N, M>{b}.run(layout.groups, fetch);
            for (int k = 0; k < M; ++k)
                for (int t = 0; t < N; ++t)
                    I::store(y + t * stride + k * kTileRows + lane, b[k].y[t]);
        }
    }
}

}  // namespace
}  // namespace expertly
