// Rows of activations as the kernels want them for a weight format.
#pragma once

#include <cstdint>

#include "layout.h"

namespace expertly {

// Up to Kernels::max_rows rows side by side; which pointers are set follows from `Wanted`.
//
// Groups of 32 columns, the last one padded with zeros, are records one after the other, each for
// all n rows: n x 32 int8 (x / scale rounded to nearest), n scales (largest magnitude / 127), n
// times minus the sum of the int8 times kMinusTimes, n times scale times their sum. Formats whose
// scales cover 16 columns read the last two of each half group instead: 2 n of each, in records of
// their own, and times kMinusHalfTimes.
struct Panel {
    int n;
    int64_t row_floats;    // from a row of floats to the next
    const float* x;        // [n][columns]
    const uint16_t* bf16;  // [n][columns rounded up to 2]
    const uint8_t* groups;
    const uint8_t* halves;
};

constexpr int64_t kScaleAt = kGroup, kMinusAt = kGroup + 4, kSumAt = kGroup + 8;  // times n
constexpr int64_t kRecordBytes = kGroup + 12, kHalvesBytes = 16;                  // times n

// sums stand ready for the least offset of codes among the formats that read them
constexpr int kMinusTimes = 8, kMinusHalfTimes = 4;

// where the parts of one row's group go, and how far it is to those of the next group
struct GroupPlaces {
    int8_t* q;
    float* scale;
    int32_t* minus;
    float* sum;
    int64_t record;
    int32_t* minus_half;  // [2], null where no format reads them
    float* sum_half;      // [2]
    int64_t halves;

    GroupPlaces at(int64_t group) const {
        const auto moved = [group](auto* p, int64_t by) {
            return reinterpret_cast<decltype(p)>(reinterpret_cast<uint8_t*>(p) + group * by);
        };
        return {moved(q, record),   moved(scale, record),      moved(minus, record),
                moved(sum, record), record,                    moved(minus_half, halves),
                moved(sum_half, halves), halves};
    }
};

// row t of a panel of n rows that begins at `groups` and `halves`, which may be null
static inline GroupPlaces places_in(uint8_t* groups, uint8_t* halves, int64_t n, int64_t t) {
    return {reinterpret_cast<int8_t*>(groups + t * kGroup),
            reinterpret_cast<float*>(groups + n * kScaleAt + t * 4),
            reinterpret_cast<int32_t*>(groups + n * kMinusAt + t * 4),
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
