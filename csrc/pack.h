// Weights from the blocks of files into the kernel layout, and back to floats.
#pragma once

#include <cstdint>

#include "layout.h"

namespace expertly {

// rows first..first+count of a matrix, given as consecutive rows of file blocks, into its tiles;
// first is a multiple of 16 and count too, unless these are the last rows
void pack_rows(const Layout& layout, Format format, const uint8_t* blocks, int64_t first,
               int64_t count, uint8_t* tiles);

// one row of a packed matrix as floats
void unpack_row(const Matrix& matrix, int64_t row, float* out);

}  // namespace expertly
