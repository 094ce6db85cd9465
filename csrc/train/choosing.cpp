#include "choosing.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace expertly {

namespace {

constexpr int64_t kTokensAnItem = 64;

bool is_before(float a, float b) { return a > b || (a != a && b == b); }

void largest_of(const float* scores_E, int64_t count, int64_t most, float* best_K,
                int64_t* ids_K) {
    if (most == 0) return;
    int64_t held = 0;
    for (int64_t e = 0; e < count; ++e) {
        const float score = scores_E[e];
        if (held == most && !is_before(score, best_K[most - 1])) continue;
        int64_t at = held < most ? held++ : most - 1;
        for (; at > 0 && is_before(score, best_K[at - 1]); --at)
            best_K[at] = best_K[at - 1], ids_K[at] = ids_K[at - 1];
        best_K[at] = score, ids_K[at] = e;
    }
}

}  // namespace

void largest(Team& team, const float* scores_TE, int64_t tokens, int64_t count, int64_t most,
             int64_t* ids_TK) {
    const int64_t items = (tokens + kTokensAnItem - 1) / kTokensAnItem;
    team.run(items, [&](int member, int64_t item) {
        float* best_K = team.scratch(member).get<float>(most);
        const int64_t end = std::min(tokens, (item + 1) * kTokensAnItem);
        for (int64_t t = item * kTokensAnItem; t < end; ++t)
            largest_of(scores_TE + t * count, count, most, best_K, ids_TK + t * most);
    });
}

void sort_places(const int64_t* ids_R, int64_t rows, int64_t count, int64_t* order_R,
                 int64_t* counts_E) {
    std::fill(counts_E, counts_E + count, 0);
    for (int64_t r = 0; r < rows; ++r) {
        if (ids_R[r] < 0 || ids_R[r] >= count) throw std::invalid_argument("no such expert");
        ++counts_E[ids_R[r]];
    }
    std::vector<int64_t> next_E(static_cast<size_t>(count), 0);
    for (size_t e = 1; e < next_E.size(); ++e) next_E[e] = next_E[e - 1] + counts_E[e - 1];
    for (int64_t r = 0; r < rows; ++r) order_R[next_E[static_cast<size_t>(ids_R[r])]++] = r;
}

}  // namespace expertly
