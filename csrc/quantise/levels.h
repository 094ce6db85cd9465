// Scales of groups as whole multiples (levels) of one unit a block.
#pragma once

#include <cmath>
#include <cstdint>

#include "group.h"
#include "stored.h"

namespace expertly {
namespace {

struct Range {
    int lowest, highest;
};

inline int level_of(float value, float unit, Range range) {
    const float parts = clamped(value * inverse_of(unit), static_cast<float>(range.lowest),
                                static_cast<float>(range.highest));
    return static_cast<int>(rounded(parts));
}

// a value to be held as a level, and what the square of its error costs
struct Wanted {
    float value, cost;
};

inline float rounding_cost(const Wanted* wanted, int64_t count, float unit, Range range) {
    const float inverse = inverse_of(unit);
    const float least = static_cast<float>(range.lowest), most = static_cast<float>(range.highest);
    float cost = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float level = rounded(clamped(wanted[i].value * inverse, least, most));
        const float off = level * unit - wanted[i].value;
        cost += wanted[i].cost * off * off;
    }
    return cost;
}

// the unit that costs least among those that make the value furthest from 0 a high level
inline float best_unit(const Wanted* wanted, int64_t count, Range range, const Stored& stored) {
    constexpr int kUnits = 24;
    float extreme = 0;
    for (int64_t i = 0; i < count; ++i)
        if (std::fabs(wanted[i].value) > std::fabs(extreme)) extreme = wanted[i].value;
    if (extreme == 0) return 0;
    float best = stored(extreme / static_cast<float>(range.highest));
    float best_cost = rounding_cost(wanted, count, best, range);
    const auto attempt = [&](int level) {
        const float unit = stored(extreme / static_cast<float>(level));
        const float cost = rounding_cost(wanted, count, unit, range);
        if (cost < best_cost) best = unit, best_cost = cost;
    };
    for (int i = 0; i < kUnits && 2 * i < range.highest; ++i) {
        attempt(range.highest - i);
        if (range.lowest < 0) attempt(range.lowest + i);
    }
    return best;
}

}  // namespace
}  // namespace expertly
