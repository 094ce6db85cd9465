#include "i8mm.h"

#include "../kernels/table.h"

namespace expertly {
namespace {
constexpr Kernels with_matrix_probe(Kernels kernels) {
    kernels.probes.int8 = probe_matrix;
    kernels.probes.int8_ops = 64 * kMatrixSums;
    return kernels;
}
}  // namespace

extern const Kernels kNeonI8mmKernels = with_matrix_probe(make_kernels<NeonI8mm>("neon-i8mm"));
}  // namespace expertly
