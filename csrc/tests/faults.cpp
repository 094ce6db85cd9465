// Kernels that are wrong, to see that the checks find it.

#include <cmath>
#include <utility>

#include "check.h"

namespace expertly {

namespace {

// off by the last bit
void nudge(float& x) { x = std::nextafter(x, 2.0f * x + 1.0f); }

template <int F>
void faulty_tile(Strip tiles, const Layout& layout, Panels x, Strip ahead, float* y,
                 int64_t stride) {
    kGenericKernels.tile[F](tiles, layout, x, ahead, y, stride);
    const int n = x.data[0].n;
    if (n > 1) nudge(y[(n - 1) * stride + 11]);
}

template <int... F>
void spoil_tiles(Kernels& kernels, std::integer_sequence<int, F...>) {
    ((kernels.tile[F] = faulty_tile<F>), ...);
}

// each function: wrong in one number, the last one where that is simple
struct Fault {
    const char* name;
    void (*put)(Kernels& kernels);
};

constexpr Fault kFaults[] = {
    {"tile", [](Kernels& k) {
         spoil_tiles(k, std::make_integer_sequence<int, static_cast<int>(Format::count)>());
     }},
    {"quantise_row", [](Kernels& k) {
         k.quantise_row = [](const float* x, int64_t n, const GroupPlaces& to) {
             kGenericKernels.quantise_row(x, n, to);
             if (n > 0) to.q[0] = static_cast<int8_t>(to.q[0] ^ 1);
         };
     }},
    {"to_bf16", [](Kernels& k) {
         k.to_bf16 = [](const float* x, int64_t n, uint16_t* y) {
             kGenericKernels.to_bf16(x, n, y);
             if (n > 0) y[n - 1] ^= 1;
         };
     }},
    {"dot", [](Kernels& k) {
         k.dot = [](const float* a, const float* b, int64_t n) {
             float sum = kGenericKernels.dot(a, b, n);
             nudge(sum);
             return sum;
         };
     }},
    {"scale_row", [](Kernels& k) {
         k.scale_row = [](const float* x, float centre, float by, const float* weight,
                          const float* bias, int64_t n, float* y) {
             for (int64_t i = 0; i < n; ++i)
                 y[i] = (x[i] - centre) * (by * weight[i]) + (bias ? bias[i] : 0.0f);
         };
     }},
    {"silu_glu", [](Kernels& k) {
         k.silu_glu = [](const float* gate, const float* up, const GluRule& rule, int64_t n,
                         float* h) {
             kGenericKernels.silu_glu(gate, up, rule, n, h);
             if (n > 0) nudge(h[n - 1]);
         };
     }},
    {"add_scaled", [](Kernels& k) {
         k.add_scaled = [](const float* x, float by, int64_t n, float* y) {
             for (int64_t i = 0; i < n; ++i) y[i] += by * x[i];
         };
     }},
    {"chunk", [](Kernels& k) {
         k.attention.chunk = [](const AttentionChunk& chunk) {
             kGenericKernels.attention.chunk(chunk);
             nudge(chunk.parts[chunk.head_size - 1]);
         };
     }},
    {"merge", [](Kernels& k) {
         k.attention.merge = [](const float* part, int64_t head_size, float* into) {
             kGenericKernels.attention.merge(part, head_size, into);
             nudge(into[head_size - 1]);
         };
     }},
    {"finish", [](Kernels& k) {
         k.attention.finish = [](const float* part, float sink, int64_t head_size, float* y) {
             kGenericKernels.attention.finish(part, sink, head_size, y);
             nudge(y[head_size - 1]);
         };
     }},
    {"to_half", [](Kernels& k) {
         k.attention.to_half = [](const float* x, int64_t n, uint16_t* y) {
             kGenericKernels.attention.to_half(x, n, y);
             if (n > 0) y[n - 1] ^= 1;
         };
     }},
    {"rotate", [](Kernels& k) {
         k.attention.rotate = [](const float* cos, const float* sin, int64_t half, float* x) {
             kGenericKernels.attention.rotate(cos, sin, half, x);
             if (half > 0) nudge(x[2 * half - 1]);
         };
     }},
};

}  // namespace

std::vector<Kernels> faulty_kernels() {
    std::vector<Kernels> sets;
    for (const Fault& fault : kFaults) {
        Kernels kernels = kGenericKernels;
        kernels.name = fault.name;
        fault.put(kernels);
        sets.push_back(kernels);
    }
    return sets;
}

Kernels overrunning_kernels() {
    Kernels kernels = kGenericKernels;
    kernels.name = "overrunning";
    kernels.dot = [](const float* a, const float* b, int64_t n) {
        return kGenericKernels.dot(a, b, n + 1);
    };
    return kernels;
}

}  // namespace expertly
