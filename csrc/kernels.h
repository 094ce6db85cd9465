// What an instruction set offers: a table of functions, one table an instruction set.
//
// All run on one thread. Every row (token) of a result depends on that row alone, whatever the
// other rows and their number: the same operations in the same order.
#pragma once

#include <cstdint>

#include "activations.h"
#include "attention_chunk.h"
#include "gemm.h"
#include "layout.h"

namespace expertly {

// some tiles of a matrix, one after the other
struct Strip {
    const uint8_t* data;
    int64_t count;
};

// panels of one span, one after the other
struct Panels {
    const Panel* data;
    int64_t count;
};

// y[i * stride + 16 * tile + lane] = weights of the tiles times row i of the panels; always writes
// whole tiles. `ahead` are tiles of the same layout that will be wanted next, or none: they are
// fetched meanwhile.
using TileKernel = void (*)(Strip tiles, const Layout& layout, Panels x, Strip ahead, float* y,
                            int64_t stride);

// act(min(gate, limit)) * (clamp(up, limit) + shift); act(g) = g * sigmoid(alpha * g), or another
struct GluRule {
    enum Act : int { silu, gelu, gelu_tanh, relu } act;
    float alpha;
    float limit;  // infinity: none
    float shift;
};

// what a core can do at most, for benchmarks: each runs for a while and returns a number that
// depends on all it did
struct Probes {
    uint32_t (*int8)(int64_t rounds);
    uint32_t (*bf16)(int64_t rounds);
    int int8_ops;  // a round
    int bf16_ops;
};

struct Kernels {
    const char* name;
    int max_rows;  // of a panel
    TileKernel tile[static_cast<int>(Format::count)];
    void (*quantise_row)(const float* x, int64_t columns, const GroupPlaces& to);
    void (*to_bf16)(const float* x, int64_t n, uint16_t* y);
    float (*dot)(const float* a, const float* b, int64_t n);
    // y = (x - centre) * by * weight + bias; y may be x, bias null
    void (*scale_row)(const float* x, float centre, float by, const float* weight,
                      const float* bias, int64_t n, float* y);
    void (*silu_glu)(const float* gate, const float* up, const GluRule& rule, int64_t n, float* h);
    // the gradients of silu_glu's inputs for one of its answer, and the answer
    void (*silu_glu_back)(const float* gate, const float* up, const float* grad_h,
                          const GluRule& rule, int64_t n, float* grad_gate, float* grad_up,
                          float* h);
    void (*add_scaled)(const float* x, float by, int64_t n, float* y);  // y += by * x
    Probes probes;
    AttentionKernels attention;
    Gemm gemm[static_cast<int>(Real::count)];  // by the type of factors
};

extern const Kernels kGenericKernels;
#ifdef EXPERTLY_X86
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
Kernels amx_over(const Kernels& base);  // a set that has the rest from another
#endif
#ifdef EXPERTLY_ARM
extern const Kernels kNeonKernels;
extern const Kernels kNeonI8mmKernels;
#endif

}  // namespace expertly
