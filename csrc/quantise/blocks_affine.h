// Blocks of groups with scales and minima in levels: weight = d * level * code - dmin * level.
#pragma once

#include <vector>

#include "affine.h"
#include "levels.h"

namespace expertly {
namespace {

struct AffineSpec {
    int top;           // codes are 0..top
    int scales, mins;  // levels are 0..scales and 0..mins
};

struct Pair {
    float scale, min;
};

struct LevelPair {
    int scale, min;
};

template <int N>
class AffineBlock {
public:
    explicit AffineBlock(const AffineSpec& spec) : spec_(spec), scales_{0, spec.scales},
                                                   mins_{0, spec.mins} {}

    // weights are counted in the unit of what can be stored for d and for dmin
    void solve(const float* weights, const float* costs, int64_t count, const Stored& d,
               const Stored& dmin) {
        d_ = &d, dmin_ = &dmin;
        resize(count);
        for (int64_t j = 0; j < count; ++j) {
            groups_[j].fill(weights + j * N, costs + j * N, true);
            // a minimum is never negative
            fits_[j] = span(groups_[j], spec_.top, groups_[j].base);
        }
        start_from_spans();
        for (int64_t j = 0; j < count; ++j)
            fits_[j] = fit_affine(groups_[j], spec_.top, groups_[j].base);
        improve();
    }

    const Pair& units() const { return units_; }
    const LevelPair& levels(int64_t j) const { return levels_[j]; }

    void codes(int64_t j, uint8_t* out) const {
        float q[N];
        round_group(j, units_, levels_[j], q);
        for (int i = 0; i < N; ++i) out[i] = static_cast<uint8_t>(q[i]);
    }

private:
    struct Quadratic {
        Sums s;
        float x;  // sum of w x
    };

    void resize(int64_t count) {
        groups_.resize(count), fits_.resize(count), levels_.resize(count);
        trial_.resize(count), wanted_.resize(count), sums_.resize(count);
    }

    int64_t count() const { return static_cast<int64_t>(groups_.size()); }

    void round_group(int64_t j, const Pair& units, const LevelPair& levels, float* q) const {
        round_affine(groups_[j], units.scale * static_cast<float>(levels.scale),
                     units.min * static_cast<float>(levels.min) + groups_[j].base, spec_.top, q);
    }

    float error(int64_t j, const Pair& units, const LevelPair& levels, const float* q) const {
        return error_of(groups_[j], q, units.scale * static_cast<float>(levels.scale),
                        units.min * static_cast<float>(levels.min) + groups_[j].base);
    }

    // sums over a group of its weights themselves
    Quadratic quadratic(int64_t j, const float* q) const {
        const Group<N>& g = groups_[j];
        Sums s = sums_of(g, q);
        s.qx += g.base * s.q;
        return {s, g.sum_wx + g.base * g.sum_w};
    }

    float best_min(int64_t j, const Quadratic& k, float scale) const {
        const float min = (k.s.q * scale - k.x) / groups_[j].sum_w;
        return min > 0 ? min : 0;
    }

    // the plain way: each group's span, the greatest at the highest level
    void start_from_spans() {
        Pair most{0, 0};
        for (int64_t j = 0; j < count(); ++j) {
            const float min = fits_[j].min - groups_[j].base;
            most.scale = fits_[j].scale > most.scale ? fits_[j].scale : most.scale;
            most.min = min > most.min ? min : most.min;
        }
        units_ = {(*d_)(most.scale / static_cast<float>(spec_.scales)),
                  (*dmin_)(most.min / static_cast<float>(spec_.mins))};
        error_ = 0;
        for (int64_t j = 0; j < count(); ++j) {
            float q[N];
            levels_[j] = {level_of(fits_[j].scale, units_.scale, scales_),
                          level_of(fits_[j].min - groups_[j].base, units_.min, mins_)};
            round_group(j, units_, levels_[j], q);
            error_ += error(j, units_, levels_[j], q);
        }
    }

    // units for the fits of the groups, by what moving their scales and minima costs
    Pair choose_units() {
        Pair units{0, 0};
        float q[N];
        for (int64_t j = 0; j < count(); ++j) {
            round_affine(groups_[j], fits_[j].scale, fits_[j].min, spec_.top, q);
            sums_[j] = quadratic(j, q);
            const Sums& s = sums_[j].s;
            const float cost = s.qq - s.q * s.q / groups_[j].sum_w;
            wanted_[j] = {fits_[j].scale, cost > 0 ? cost : 0};
        }
        units.scale = best_unit(wanted_.data(), count(), scales_, *d_);
        for (int64_t j = 0; j < count(); ++j) {
            const int level = level_of(fits_[j].scale, units.scale, scales_);
            const float scale = units.scale * static_cast<float>(level);
            wanted_[j] = {best_min(j, sums_[j], scale), groups_[j].sum_w};
        }
        units.min = best_unit(wanted_.data(), count(), mins_, *dmin_);
        return units;
    }

    // of the levels next to a group's fit, those that cost least
    LevelPair choose_levels(int64_t j, const Pair& units) const {
        LevelPair chosen{0, 0};
        const int middle = level_of(fits_[j].scale, units.scale, scales_);
        float least = -1;
        float q[N];
        const auto attempt = [&](const LevelPair& levels) {
            const float e = error(j, units, levels, q);
            if (least < 0 || e < least) least = e, chosen = levels;
        };
        for (int scale = middle - 1; scale <= middle + 1; ++scale) {
            if (scale < 0 || scale > spec_.scales) continue;
            const float value = units.scale * static_cast<float>(scale);
            LevelPair levels{scale, level_of(best_min(j, sums_[j], value), units.min, mins_)};
            round_group(j, units, levels, q);
            attempt(levels);
            const int again = level_of(best_min(j, quadratic(j, q), value), units.min, mins_);
            if (again != levels.min) attempt({scale, again});
        }
        return chosen;
    }

    // the best units for given levels and the codes that they lead to
    Pair refit_units(const Pair& units, const std::vector<LevelPair>& levels) const {
        double ss = 0, mm = 0, sm = 0, sx = 0, mx = 0;
        float q[N];
        for (int64_t j = 0; j < count(); ++j) {
            round_group(j, units, levels[j], q);
            const Quadratic k = quadratic(j, q);
            const double scale = levels[j].scale, min = levels[j].min;
            ss += scale * scale * k.s.qq, mm += min * min * groups_[j].sum_w;
            sm += scale * min * k.s.q, sx += scale * k.s.qx, mx += min * k.x;
        }
        const double det = ss * mm - sm * sm;
        Pair next = units;
        if (det > 1e-9 * ss * mm) {
            next = {static_cast<float>((sx * mm - sm * mx) / det),
                    static_cast<float>((sx * sm - ss * mx) / det)};
        } else if (ss > 0) {
            next.scale = static_cast<float>((sx + units.min * sm) / ss);
        }
        const bool is_valid = next.scale >= 0 && next.min >= 0;
        return is_valid ? Pair{(*d_)(next.scale), (*dmin_)(next.min)} : units;
    }

    float total(const Pair& units, const std::vector<LevelPair>& levels) const {
        float q[N], e = 0;
        for (int64_t j = 0; j < count(); ++j) {
            round_group(j, units, levels[j], q);
            e += error(j, units, levels[j], q);
        }
        return e;
    }

    void improve() {
        constexpr int kTurns = 2;
        Pair units = choose_units();
        for (int i = 0; i < kTurns; ++i) {
            for (int64_t j = 0; j < count(); ++j) trial_[j] = choose_levels(j, units);
            keep_if_better(units);
            const Pair next = refit_units(units, trial_);
            if (next.scale == units.scale && next.min == units.min) return;
            units = next;
            keep_if_better(units);
        }
    }

    void keep_if_better(const Pair& units) {
        const float e = total(units, trial_);
        if (e < error_) error_ = e, units_ = units, levels_ = trial_;
    }

    AffineSpec spec_;
    Range scales_, mins_;
    const Stored *d_ = nullptr, *dmin_ = nullptr;
    Pair units_{};
    float error_ = 0;
    std::vector<Group<N>> groups_;
    std::vector<Affine> fits_;
    std::vector<LevelPair> levels_, trial_;
    std::vector<Wanted> wanted_;
    std::vector<Quadratic> sums_;
};

}  // namespace
}  // namespace expertly
