// The inside of a gated feed-forward, for a row of any activation.
#pragma once

#include "../kernels.h"

namespace expertly {

// h = act(gate) * (up + shift) as `rule` says; h may be gate
void glu(const Kernels& kernels, const float* gate, const float* up, const GluRule& rule,
         int64_t n, float* h);

}  // namespace expertly
