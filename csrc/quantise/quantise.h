// Float weights into the blocks of files, rounded so that the squared error is small.
#pragma once

#include <cstdint>

#include "../formats.h"

namespace expertly {

// how many of `count` values are infinite or no numbers
int64_t count_not_finite(const float* values, int64_t count);

// w: rows x columns, finite. importance: what a squared error in each column costs, not negative,
// or null where all cost the same. out: rows x row_bytes(format, columns). Columns are padded with
// zeros up to whole blocks. A row's blocks depend on that row (and the importance) alone.
void quantise(Format format, const float* w, int64_t rows, int64_t columns,
              const float* importance, uint8_t* out);

}  // namespace expertly
