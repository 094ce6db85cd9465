// Rows of activations as the kernels want them for a weight format.
#pragma once

#include <cstdint>

#include "layout.h"

namespace expertly {

// Up to Kernels::max_rows rows side by side; which pointers are set follows from `Wanted`.
//
// Groups of 32 columns, the last one padded with zeros, are records one after the other, each for
// all n rows: n x 32 int8 (x / scale rounded to nearest), n scales (largest magnitude / 127), n
// starts for codes that are 8 too large and n for codes that are 128 too large, n times scale times
// the sum of the int8. Formats whose scales cover 16 columns read starts and sums of each half
// group instead: 2 n of each, in records of their own, starts for codes that are 4 too large.
//
// A start is kOrigin minus the sum of the int8 times what codes are too large.
struct Panel {
    int n;
    int64_t row_floats;    // from a row of floats to the next
    const float* x;        // [n][columns]
    const uint16_t* bf16;  // [n][columns rounded up to 2]
    const uint8_t* groups;
    const uint8_t* halves;
};

// The bits of 1.5 * 2^23: an integer below 2^22 in magnitude added to them is the float 1.5 * 2^23
// plus that integer, so that sums of products need no conversion.
constexpr int32_t kOrigin = 0x4B400000;
constexpr float kOriginFloat = 12582912.0f;

constexpr int kStartOffset = 8, kSignedOffset = 128, kHalfOffset = 4;

constexpr int64_t kScaleAt = kGroup, kStartAt = kGroup + 4, kSignedStartAt = kGroup + 8,
                  kSumAt = kGroup + 12;                              // times n
constexpr int64_t kRecordBytes = kGroup + 16, kHalvesBytes = 16;  // times n

// where the parts of one row's group go, and how far it is to those of the next group
struct GroupPlaces {
    int8_t* q;
    float* scale;
    int32_t* start;
    int32_t* signed_start;
    float* sum;
    int64_t record;
    int32_t* half_starts;  // [2], null where no format reads them
    float* half_sums;      // [2]
    int64_t halves;

    GroupPlaces at(int64_t group) const {
        const auto moved = [group](auto* p, int64_t by) {
            return reinterpret_cast<decltype(p)>(reinterpret_cast<uint8_t*>(p) + group * by);
        };
        return {moved(q, record),   moved(scale, record), moved(start, record),
                moved(signed_start, record), moved(sum, record), record,
                moved(half_starts, halves), moved(half_sums, halves), halves};
    }
};

// row t of a panel of n rows that begins at `groups` and `halves`, which may be null
static inline GroupPlaces places_in(uint8_t* groups, uint8_t* halves, int64_t n, int64_t t) {
    return {reinterpret_cast<int8_t*>(groups + t * kGroup),
            reinterpret_cast<float*>(groups + n * kScaleAt + t * 4),
            reinterpret_cast<int32_t*>(groups + n * kStartAt + t * 4),
            reinterpret_cast<int32_t*>(groups + n * kSignedStartAt + t * 4),
            reinterpret_cast<float*>(groups + n * kSumAt + t * 4),
            n * kRecordBytes,
            halves ? reinterpret_cast<int32_t*>(halves + t * 8) : nullptr,
            halves ? reinterpret_cast<float*>(halves + n * 8 + t * 8) : nullptr,
            halves ? n * kHalvesBytes : 0};
}

// which form of the activations a format's kernel reads
enum class Wanted : int { floats, bf16, groups };

inline constexpr Wanted wanted_by(Format format) {
    switch (format) {
        case Format::f32:
        case Format::f16: return Wanted::floats;
        case Format::bf16: return Wanted::bf16;
        default: return Wanted::groups;
    }
}

}  // namespace expertly
