// The inside of a gated feed-forward, for a row of any activation.
#pragma once

#include "../kernels.h"

namespace expertly {

// h = act(gate) * (up + shift) as `rule` says; h may be gate
void glu(const Kernels& kernels, const float* gate, const float* up, const GluRule& rule,
         int64_t n, float* h);

// the gradients of gate and up for one of h, and h: they may be gate, up and grad_h
void glu_back(const Kernels& kernels, const float* gate, const float* up, const float* grad_h,
              const GluRule& rule, int64_t n, float* grad_gate, float* grad_up, float* h);

}  // namespace expertly
