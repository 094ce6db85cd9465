// Blocks of groups of 16 with signed scales in levels: weight = d * level * code.
#pragma once

#include "levels.h"
#include "scaled.h"

namespace expertly {
namespace {

class ScaledBlock {
public:
    static constexpr int kGroups = 16, kWidth = 16;

    ScaledBlock(Whole book, Range range) : book_(book), range_(range) {}

    // 256 weights, counted in `stored`'s unit
    void solve(const float* weights, const float* costs, const Stored& stored) {
        float values[kGroups];
        for (int j = 0; j < kGroups; ++j) {
            groups_[j].fill(weights + j * kWidth, costs + j * kWidth, false);
            values[j] = extreme_of(groups_[j]) / book_.lowest;
        }
        start_from(values, stored);
        improve(stored);
    }

    float unit() const { return unit_; }
    int level(int j) const { return levels_[j]; }

    // codes 0..highest - lowest
    void codes(int j, uint8_t* out) const {
        float q[kWidth];
        round_scaled(groups_[j], scale(unit_, levels_[j]), book_, q);
        for (int i = 0; i < kWidth; ++i) out[i] = static_cast<uint8_t>(book_.code(q[i]));
    }

private:
    static float scale(float unit, int level) { return unit * static_cast<float>(level); }

    // the plain way: each group's extreme at the lowest code, the greatest scale at the lowest level
    void start_from(const float* values, const Stored& stored) {
        float extreme = 0;
        for (int j = 0; j < kGroups; ++j)
            if (std::fabs(values[j]) > std::fabs(extreme)) extreme = values[j];
        unit_ = stored(extreme / static_cast<float>(range_.lowest));
        for (int j = 0; j < kGroups; ++j) levels_[j] = level_of(values[j], unit_, range_);
        error_ = total(unit_, levels_);
    }

    float total(float unit, const int* levels) const {
        float e = 0;
        for (int j = 0; j < kGroups; ++j)
            e += rounding_error(groups_[j], scale(unit, levels[j]), book_);
        return e;
    }

    void improve(const Stored& stored) {
        constexpr int kTurns = 3;
        Wanted wanted[kGroups];
        float q[kWidth];
        for (int j = 0; j < kGroups; ++j) {
            const float fit = fit_scale(groups_[j], book_).scale;
            round_scaled(groups_[j], fit, book_, q);
            wanted[j] = {fit, sums_of(groups_[j], q).qq};
        }
        float unit = best_unit(wanted, kGroups, range_, stored);
        int levels[kGroups];
        for (int i = 0; i < kTurns; ++i) {
            for (int j = 0; j < kGroups; ++j) levels[j] = choose_level(j, wanted[j].value, unit);
            keep_if_better(unit, levels);
            const float next = stored(refit_unit(unit, levels));
            if (next == unit) return;
            unit = next;
            keep_if_better(unit, levels);
        }
    }

    int choose_level(int j, float value, float unit) const {
        const int middle = level_of(value, unit, range_);
        int best = middle;
        float least = rounding_error(groups_[j], scale(unit, middle), book_);
        for (int level = middle - 1; level <= middle + 1; level += 2) {
            if (level < range_.lowest || level > range_.highest) continue;
            const float e = rounding_error(groups_[j], scale(unit, level), book_);
            if (e < least) least = e, best = level;
        }
        return best;
    }

    float refit_unit(float unit, const int* levels) const {
        double xx = 0, xy = 0;
        float q[kWidth];
        for (int j = 0; j < kGroups; ++j) {
            round_scaled(groups_[j], scale(unit, levels[j]), book_, q);
            const Sums s = sums_of(groups_[j], q);
            const double level = levels[j];
            xx += level * level * s.qq, xy += level * s.qx;
        }
        return xx > 0 ? static_cast<float>(xy / xx) : unit;
    }

    void keep_if_better(float unit, const int* levels) {
        const float e = total(unit, levels);
        if (!(e < error_)) return;
        error_ = e, unit_ = unit;
        for (int j = 0; j < kGroups; ++j) levels_[j] = levels[j];
    }

    Whole book_;
    Range range_;
    float unit_ = 0, error_ = 0;
    int levels_[kGroups];
    Group<kWidth> groups_[kGroups];
};

}  // namespace
}  // namespace expertly
