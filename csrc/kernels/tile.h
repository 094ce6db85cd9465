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

// step J's share of the lines of group g of a plane, into the first-level cache
template <int J, int64_t GroupBytes>
I_INLINE void approach(const uint8_t* plane, int64_t g) {
    constexpr int64_t lines = (GroupBytes + 63) / 64;
    for (int64_t i = J * lines / 8; i < (J + 1) * lines / 8; ++i)
        __builtin_prefetch(plane + g * GroupBytes + i * 64, 0, 3);
}

template <class I, Codes C, bool IsTable>
struct StepCodes;  // the 4-column step J of group g as bytes

template <class I>
struct StepCodes<I, Codes::nibbles, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        return I::template nibble<(J >= 4)>(I::load(p.codes + g * 256 + (J % 4) * 64 + part));
    }
};

template <class I>
struct StepCodes<I, Codes::nibbles, true> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes table) {
        const auto at = StepCodes<I, Codes::nibbles, false>::template get<J>(p, g, part, table);
        return I::lookup(table, at);
    }
};

template <class I>
struct StepCodes<I, Codes::bytes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        return I::load(p.codes + g * 512 + J * 64 + part);
    }
};

template <class I>
struct StepCodes<I, Codes::fives, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = StepCodes<I, Codes::nibbles, false>::template get<J>(p, g, part, none);
        const auto bits = I::template field<1, J, 4>(I::load(p.high + g * 64 + part));
        return I::either(low, bits);
    }
};

template <class I>
struct StepCodes<I, Codes::sixes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = StepCodes<I, Codes::nibbles, false>::template get<J>(p, g, part, none);
        const auto high = I::load(p.high + g * 128 + (J / 4) * 64 + part);
        return I::either(low, I::template field<2, 2 * (J % 4), 4>(high));
    }
};

template <class I>
struct StepCodes<I, Codes::twos, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes) {
        const auto pairs = I::load(p.codes + g * 128 + (J / 4) * 64 + part);
        return I::template field<2, 2 * (J % 4), 0>(pairs);
    }
};

template <class I>
struct StepCodes<I, Codes::threes, false> {
    template <int J>
    static typename I::Bytes get(const Planes& p, int64_t g, int part, typename I::Bytes none) {
        const auto low = StepCodes<I, Codes::twos, false>::template get<J>(p, g, part, none);
        const auto bits = I::template field<1, J, 2>(I::load(p.high + g * 64 + part));
        return I::either(low, bits);
    }
};

// scale (and minimum) of the columns of group g, half 1 is its upper 16 columns; enter() comes
// before every group, in order, and keeps what a super-block's groups share
template <class I, Scales S>
struct Scale;

template <class I>
struct Scale<I, Scales::half> {
    I_INLINE void enter(const Planes&, int64_t, int) {}
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int, int lane) const {
        return I::load_half(p.scales + g * 32 + lane * 2);
    }
};

template <class I>
struct Scale<I, Scales::half_min> {
    I_INLINE void enter(const Planes&, int64_t, int) {}
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int, int lane) const {
        return I::load_half(p.scales + g * 64 + lane * 2);
    }
    I_INLINE typename I::Floats min(const Planes& p, int64_t g, int, int lane) const {
        return I::load_half(p.scales + g * 64 + 32 + lane * 2);
    }
};

template <class I>
struct Scale<I, Scales::exponent> {
    I_INLINE void enter(const Planes&, int64_t, int) {}
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int, int lane) const {
        return I::load_exponent(p.scales + g * 16 + lane);
    }
};

constexpr int64_t kSuperGroups = kSuper / kGroup;

// d, and minus dmin where there is one, of a super-block or row
template <class I>
struct Shared {
    typename I::Floats d, minus;

    I_INLINE void enter_half(const uint8_t* at, int64_t g) {
        if (g % kSuperGroups == 0) d = I::load_half(at + g / kSuperGroups * 32);
    }
    I_INLINE void enter_halves(const uint8_t* at, int64_t g) {
        if (g % kSuperGroups != 0) return;
        d = I::load_half(at + g / kSuperGroups * 64);
        minus = I::negate(I::load_half(at + g / kSuperGroups * 64 + 32));
    }
};

template <class I>
struct Scale<I, Scales::bytes_min> : Shared<I> {
    I_INLINE void enter(const Planes& p, int64_t g, int lane) {
        this->enter_halves(p.supers + lane * 2, g);
    }
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int, int lane) const {
        return I::mul(this->d, I::load_u8(p.scales + g * 32 + lane));
    }
    I_INLINE typename I::Floats min(const Planes& p, int64_t g, int, int lane) const {
        return I::mul(this->minus, I::load_u8(p.scales + g * 32 + 16 + lane));
    }
};

template <class I>
struct Scale<I, Scales::row_min> : Scale<I, Scales::bytes_min> {
    I_INLINE void enter(const Planes& p, int64_t g, int lane) {
        if (g != 0) return;
        this->d = I::load_float(p.supers + lane * 4);
        this->minus = I::negate(I::load_float(p.supers + 64 + lane * 4));
    }
};

template <class I>
struct Scale<I, Scales::half_groups> : Shared<I> {
    I_INLINE void enter(const Planes& p, int64_t g, int lane) {
        this->enter_half(p.supers + lane * 2, g);
    }
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int half, int lane) const {
        return I::mul(this->d, I::load_s8(p.scales + g * 32 + half * 16 + lane));
    }
};

template <class I>
struct Scale<I, Scales::half_groups_min> : Shared<I> {
    I_INLINE void enter(const Planes& p, int64_t g, int lane) {
        this->enter_halves(p.supers + lane * 2, g);
    }
    I_INLINE typename I::Floats scale(const Planes& p, int64_t g, int half, int lane) const {
        return I::mul(this->d, I::template load_u4<false>(p.scales + g * 32 + half * 16 + lane));
    }
    I_INLINE typename I::Floats min(const Planes& p, int64_t g, int half, int lane) const {
        return I::mul(this->minus, I::template load_u4<true>(p.scales + g * 32 + half * 16 + lane));
    }
};

constexpr bool has_min(Scales s) {
    return s == Scales::half_min || s == Scales::bytes_min || s == Scales::row_min ||
           s == Scales::half_groups_min;
}

// whether scales have so few digits that kOriginFloat times one is exact (and no overflow)
constexpr bool is_short(Scales s) { return s != Scales::exponent && s != Scales::row_min; }

constexpr int log2_of(int power) { return power <= 1 ? 0 : 1 + log2_of(power / 2); }

// steps whose pairs of products 16 bits can add up, if an instruction set does so: twice 127 times
// the largest code a step
constexpr int steps_in_16_bits(Format format) {
    if (scheme_of(format).is_signed) return 1;
    if (format == Format::mxfp4) return 4;
    switch (scheme_of(format).codes) {
        case Codes::sixes: return 2;
        case Codes::fives: return 4;
        default: return 8;
    }
}

// one tile: what it holds and its sums
template <class I, Format F, int N>
struct Block {
    static constexpr Scheme scheme = scheme_of(F);
    static constexpr bool is_table = F == Format::iq4_nl || F == Format::mxfp4;
    static constexpr bool is_halved = has_halves(scheme.scales);
    static constexpr bool is_paired = I::has_pairs && steps_in_16_bits(F) > 1;
    // unsigned dot products of signed codes take 128 too much a code
    static constexpr int offset =
        scheme.is_signed ? (I::adds_128 ? 128 : 0) : scheme.offset;
    using S = StepCodes<I, scheme.codes, is_table>;
    using W = Scale<I, scheme.scales>;
    using Bytes = typename I::Bytes;
    using Ints = typename I::Ints;
    using Floats = typename I::Floats;

    Planes p;
    int lane;  // the first of the I::lanes rows computed here
    Bytes table;
    W scales;
    Floats y[N];

    static const int32_t* int_at(const uint8_t* at) {
        return reinterpret_cast<const int32_t*>(at);
    }
    static const float* float_at(const uint8_t* at) { return reinterpret_cast<const float*>(at); }

    // where sums start whose codes are `offset` too large: kOrigin minus offset times the sum of the
    // activations. x: the group's record, all N rows at fixed distances; halves: that of its halves
    static I_INLINE Ints start(const uint8_t* x, const uint8_t* halves, int t, int half) {
        if constexpr (offset == 0) return I::set_int(kOrigin);
        if constexpr (offset == kSignedOffset)
            return I::broadcast_int(int_at(x + N * kSignedStartAt + t * 4));
        constexpr int known = is_halved ? kHalfOffset : kStartOffset;
        const uint8_t* at = is_halved ? halves + t * 8 + half * 4 : x + N * kStartAt + t * 4;
        const Ints first = I::broadcast_int(int_at(at));
        if constexpr (offset == known) return first;
        constexpr int times = offset / known;
        static_assert(offset % known == 0, "a start is multiplied by a shift");
        const auto too_many = static_cast<uint32_t>(kOrigin) * (times - 1);
        return I::add_int(I::template shift_left<log2_of(times)>(first),
                          I::set_int(static_cast<int32_t>(0u - too_many)));
    }

    template <int J>
    I_INLINE void approach(int64_t g) const {
        expertly::approach<J, scale_bytes(scheme.scales)>(p.scales, g);
        expertly::approach<J, high_bytes(scheme.codes)>(p.high, g);
        expertly::approach<J, code_bytes(scheme.codes)>(p.codes, g);
    }

    template <int J>
    I_INLINE Bytes codes(int64_t g) const {
        const Bytes w = S::template get<J>(p, g, lane * 4, table);
        if constexpr (scheme.codes == Codes::bytes && !I::adds_128) return I::add_128(w);
        else return w;
    }

    // the products of step J's codes with rows [begin, end)
    template <int J>
    I_INLINE void dots(const uint8_t* x, Bytes w, int begin, int end, Ints* acc) const {
        for (int t = begin; t < end; ++t) {
            const auto* q = reinterpret_cast<const int8_t*>(x + t * kGroup + J * 4);
            if constexpr (is_paired) acc[t] = I::dot_pairs(acc[t], w, q);
            else if constexpr (scheme.is_signed) acc[t] = I::dot_signed(acc[t], w, q);
            else acc[t] = I::dot(acc[t], w, q);
        }
    }

    I_INLINE Floats scale(int64_t g, int half) const { return scales.scale(p, g, half, lane); }

    // the sums that began at kOrigin, times `s`, rounded once
    I_INLINE void scaled(const Ints* acc, Floats s, Floats* to) const {
        if constexpr (is_short(scheme.scales)) {
            const Floats less = I::mul(s, I::set(-kOriginFloat));
            for (int t = 0; t < N; ++t) to[t] = I::fma(I::float_of(acc[t]), s, less);
        } else {
            for (int t = 0; t < N; ++t)
                to[t] = I::mul(I::add(I::float_of(acc[t]), I::set(-kOriginFloat)), s);
        }
    }

    I_INLINE void add(const uint8_t* x, const uint8_t* halves, int64_t g, int half, Floats s,
                      const Ints* acc) {
        Floats sums[N];
        scaled(acc, s, sums);
        for (int t = 0; t < N; ++t)
            y[t] = I::fma(sums[t], I::broadcast(float_at(x + N * kScaleAt + t * 4)), y[t]);
        if constexpr (has_min(scheme.scales)) {
            const Floats m = scales.min(p, g, half, lane);
            for (int t = 0; t < N; ++t) {
                const uint8_t* sum =
                    is_halved ? halves + N * 8 + t * 8 + half * 4 : x + N * kSumAt + t * 4;
                y[t] = I::fma(m, I::broadcast(float_at(sum)), y[t]);
            }
        }
    }
};

template <class I, Format F>
I_INLINE typename I::Bytes table_of() {
    if constexpr (F == Format::iq4_nl && I::adds_128) return I::add_128(I::table(kIq4Table));
    if constexpr (F == Format::iq4_nl) return I::table(kIq4Table);
    if constexpr (F == Format::mxfp4) return I::table(kMxfp4Table);
    return typename I::Bytes{};
}

// M tiles at once, each number of activations fetched for all of them: for few rows, whose sums
// alone would wait for each other
template <class I, Format F, int N, int M>
struct Blocks {
    using B = Block<I, F, N>;
    using Ints = typename I::Ints;
    // two chains of sums, as a single one would wait for itself
    static constexpr int chains = M * N <= 2 && !B::is_paired && !B::is_halved ? 2 : 1;

    B (&blocks)[M];
    Fetch& fetch;
    const uint8_t* x;
    const uint8_t* halves;
    typename B::Bytes codes{};  // of the next step, where I::reads_ahead
    typename B::Floats scales[M]{};

    I_INLINE static void clear(Ints (&acc)[M][N]) {
        for (int k = 0; k < M; ++k)
            for (int t = 0; t < N; ++t) acc[k][t] = I::zero();
    }

    I_INLINE void start(int64_t g, int half, Ints (&acc)[M][N]) {
        if constexpr (I::reads_ahead)
            for (int k = 0; k < M; ++k) scales[k] = blocks[k].scale(g, half);
        for (int t = 0; t < N; ++t) {
            const Ints first = B::start(x, halves, t, half);
            for (int k = 0; k < M; ++k) acc[k][t] = first;
        }
    }

    // steps that share bytes follow each other; integers add up alike in any order
    static constexpr int step_after(int j) {
        if (j == 7) return 0;
        if (B::is_halved) return j + 1;
        return j < 4 ? j + 4 : j - 3;
    }

    // step J of all tiles; codes of the step after it are read amid its products, so as to be there
    // when their own turn comes
    template <int J>
    I_INLINE void step(int64_t g, Ints (&acc)[M][N]) {
        // once a tile and group: loads wait where many lines are asked for at once
        if constexpr (J % (8 / M) == 0) fetch.next();
        if constexpr (M > 1 && I::groups_ahead > 0)
            for (int k = 0; k < M; ++k) blocks[k].template approach<J>(g + I::groups_ahead);
        if constexpr (!I::reads_ahead) {
            for (int k = 0; k < M; ++k)
                blocks[k].template dots<J>(x, blocks[k].template codes<J>(g), 0, N, acc[k]);
        } else {
            constexpr int middle = (N + 1) / 2;
            for (int k = 0; k < M; ++k) {
                const auto w = codes;
                blocks[k].template dots<J>(x, w, 0, middle, acc[k]);
                if (k + 1 < M) codes = blocks[k + 1].template codes<J>(g);
                else if constexpr (J != 7) codes = blocks[0].template codes<step_after(J)>(g);
                blocks[k].template dots<J>(x, w, middle, N, acc[k]);
            }
        }
    }

    template <class Merge>
    I_INLINE static void merge(Ints (&acc)[M][N], const Ints (&from)[M][N], const Merge& merge) {
        for (int k = 0; k < M; ++k)
            for (int t = 0; t < N; ++t) acc[k][t] = merge(acc[k][t], from[k][t]);
    }

    // as many steps as 16 bits can take
    template <int... J>
    I_INLINE void paired(int64_t g, Ints (&acc)[M][N]) {
        Ints pairs[M][N];
        clear(pairs);
        (step<J>(g, pairs), ...);
        merge(acc, pairs, I::add_pairs);
    }

    template <int A, int B_, int C, int D>
    I_INLINE void four_steps(int64_t g, Ints (&acc)[M][N]) {
        if constexpr (!B::is_paired) {
            step<A>(g, acc), step<B_>(g, acc), step<C>(g, acc), step<D>(g, acc);
        } else if constexpr (steps_in_16_bits(F) == 2) {
            paired<A, B_>(g, acc), paired<C, D>(g, acc);
        } else {
            paired<A, B_, C, D>(g, acc);
        }
    }

    I_INLINE void all_steps(int64_t g, Ints (&acc)[M][N]) {
        if constexpr (B::is_paired && steps_in_16_bits(F) == 8) {
            paired<0, 4, 1, 5, 2, 6, 3, 7>(g, acc);
        } else if constexpr (chains == 2) {
            Ints other[M][N];
            clear(other);
            step<0>(g, acc), step<4>(g, other), step<1>(g, acc), step<5>(g, other);
            step<2>(g, acc), step<6>(g, other), step<3>(g, acc), step<7>(g, other);
            merge(acc, other, I::add_int);
        } else {
            four_steps<0, 4, 1, 5>(g, acc), four_steps<2, 6, 3, 7>(g, acc);
        }
    }

    I_INLINE void add(int64_t g, int half, const Ints (&acc)[M][N]) {
        for (int k = 0; k < M; ++k) {
            if constexpr (!I::reads_ahead) scales[k] = blocks[k].scale(g, half);
            blocks[k].add(x, halves, g, half, scales[k], acc[k]);
        }
    }

    I_INLINE void group(int64_t g) {
        for (int k = 0; k < M; ++k) blocks[k].scales.enter(blocks[k].p, g, blocks[k].lane);
        Ints acc[M][N];
        start(g, 0, acc);
        if constexpr (I::reads_ahead) codes = blocks[0].template codes<0>(g);
        if constexpr (B::is_halved) {
            four_steps<0, 1, 2, 3>(g, acc);
            add(g, 0, acc);
            start(g, 1, acc);
            four_steps<4, 5, 6, 7>(g, acc);
            add(g, 1, acc);
        } else {
            all_steps(g, acc);
            add(g, 0, acc);
        }
    }

    I_INLINE void run(int64_t groups) {
        for (int64_t g = 0; g < groups; ++g) {
            group(g);
            x += N * kRecordBytes;
            if constexpr (B::is_halved) halves += N * kHalvesBytes;
        }
    }
};

// M tiles; those of an instruction set with half tiles are computed a half at a time
template <class I, Format F, int N, int M>
void block(const uint8_t* tile, const Layout& layout, const Panel& x, Fetch& fetch, float* y,
           int64_t stride) {
    for (int lane = 0; lane < kTileRows; lane += I::lanes) {
        Block<I, F, N> blocks[M] = {};
        for (int k = 0; k < M; ++k) {
            const uint8_t* at = tile + k * layout.tile_bytes;
            blocks[k].p = {at, at + layout.scales, at + layout.high, at + layout.codes};
            blocks[k].lane = lane;
            blocks[k].table = table_of<I, F>();
        }
        Blocks<I, F, N, M>{blocks, fetch, x.groups, x.halves}.run(layout.groups);
        for (int k = 0; k < M; ++k)
            for (int t = 0; t < N; ++t)
                I::store(y + t * stride + k * kTileRows + lane, blocks[k].y[t]);
    }
}

}  // namespace
}  // namespace expertly
