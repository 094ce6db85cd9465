#include "block.h"

#include "../kernels/table.h"

namespace expertly {
namespace {
struct NeonDot : Neon {};

template <Format F, int N>
struct Blocks<NeonDot, F, N, 1> : NeonBlocks<NeonDot, DotSums<N>, F, N> {};
}  // namespace

extern const Kernels kNeonKernels = make_kernels<NeonDot>("neon");
}  // namespace expertly
