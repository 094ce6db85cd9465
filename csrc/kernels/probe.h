// What a core can do at most: loops of one instruction on registers.
#pragma once

#include <cstdint>

#include "../kernels.h"

namespace expertly {
namespace {

// enough sums side by side to hide an instruction's latency, few enough for the registers
template <class I>
constexpr int kProbeSums = I::lanes == 16 ? 16 : 8;

template <class I>
struct Ints {
    using Value = typename I::Ints;
};
template <class I>
struct Floats {
    using Value = typename I::Floats;
};

// values of one kind as members: an array would live in memory
template <class Kind, int N>
struct Several {
    typename Kind::Value one;
    Several<Kind, N - 1> rest;

    template <class Change>
    I_INLINE void each(Change change) {
        change(one);
        rest.each(change);
    }
};

template <class Kind>
struct Several<Kind, 0> {
    template <class Change>
    I_INLINE void each(Change) {}
};

// a number that depends on all values, so that none is left out
template <class Values>
I_INLINE uint32_t fold(Values values) {
    uint32_t all = 0;
    values.each([&](auto& value) {
        uint32_t word;
        __builtin_memcpy(&word, &value, sizeof(word));
        all |= word;
    });
    return all;
}

// the compiler takes it that both may have changed: else it would see that all rounds, and all
// sums of a round, are one
template <class A, class B>
I_INLINE void forget(A& a, B& b) {
    __asm__ volatile("" : "+m"(a), "+m"(b));
}

// as few instructions as tiles spend on a step: pairs of products widen once a group there
template <class I>
I_INLINE typename I::Ints cheapest_dot(typename I::Ints sum, typename I::Bytes w,
                                       const int8_t* q) {
    if constexpr (I::has_pairs) return I::dot_pairs(sum, w, q);
    else if constexpr (I::lanes == 16) return I::dot(sum, w, I::four(q));
    else return I::dot(sum, w, q);
}

template <class I>
uint32_t probe_int8(int64_t rounds) {
    using Sum = typename I::Ints;
    // where a dot product is several instructions, all but the last could be shared by sums that
    // have both factors in common
    constexpr int apart = I::lanes == 16 ? 0 : 4;
    alignas(64) uint8_t weights[64] = {1, 2, 3};
    alignas(64) int8_t other[64] = {3, 2, 1};
    Several<Ints<I>, kProbeSums<I>> sums;
    sums.each([&](Sum& sum) {
        forget(weights, other);
        sum = cheapest_dot<I>(I::zero(), I::load(weights), other);
    });
    for (int64_t round = 0; round < rounds; ++round) {
        forget(weights, other);
        int at = 0;
        sums.each([&](Sum& sum) {
            sum = cheapest_dot<I>(sum, I::load(weights), other + at);
            at += apart;
        });
    }
    return fold(sums);
}

template <class I>
uint32_t probe_bf16(int64_t rounds) {
    using Sum = typename I::Floats;
    alignas(64) uint8_t weights[64] = {0, 63, 0, 63};
    alignas(64) uint16_t other[32] = {0x3F00, 0x3F00};
    Several<Floats<I>, kProbeSums<I>> sums;
    sums.each([&](Sum& sum) {
        forget(weights, other);
        sum = I::dot_bf16(I::zero_float(), I::load(weights), other);
    });
    for (int64_t round = 0; round < rounds; ++round) {
        forget(weights, other);
        sums.each([&](Sum& sum) { sum = I::dot_bf16(sum, I::load(weights), other); });
    }
    return fold(sums);
}

// operations of a round: a multiply-add is two
template <class I>
constexpr Probes make_probes() {
    return Probes{probe_int8<I>, probe_bf16<I>, 8 * I::lanes * kProbeSums<I>,
                  4 * I::lanes * kProbeSums<I>};
}

}  // namespace
}  // namespace expertly
