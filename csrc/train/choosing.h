// Which experts a token takes, and its rows in the order of experts.
#pragma once

#include <cstdint>

#include "team.h"

namespace expertly {

// of each row of `count` scores the indices of the `most` largest, largest first; of equal ones
// the first, and a NaN before all numbers
void largest(Team& team, const float* scores_TE, int64_t tokens, int64_t count, int64_t most,
             int64_t* ids_TK);

// places of ids in order of the ids, and of equal ones in order of places; how many of each id
// there are. Throws std::invalid_argument for an id that is not below `count`
void sort_places(const int64_t* ids_R, int64_t rows, int64_t count, int64_t* order_R,
                 int64_t* counts_E);

}  // namespace expertly
