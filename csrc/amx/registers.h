// The tile registers of AMX: 8 of them, each up to 16 rows of 64 bytes.
//
// By assembly: gcc 12 takes it that a configuration is read as a pointer's bytes alone and leaves out
// what fills the rest, and its intrinsics take register numbers as text only.
#pragma once

#include <cstdint>

namespace expertly {
namespace {

constexpr int kNumTiles = 8, kMostRows = 16, kRowBytes = 64;

// how many rows, of how many bytes, each register holds: Intel's manual, "LDTILECFG", palette 1
struct alignas(64) Shapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    constexpr void set(int tile, int64_t num_rows, int64_t num_bytes) {
        rows[tile] = static_cast<uint8_t>(num_rows);
        row_bytes[tile] = static_cast<uint16_t>(num_bytes);
    }
};
static_assert(sizeof(Shapes) == 64);

inline void shape_tiles(const Shapes& shapes) {
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}

// the registers are nobody's: threads that switch need not save them
inline void release_tiles() { __asm__ volatile("tilerelease"); }

template <int T>
inline void zero_tile() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(T)); }

// rows `stride` bytes apart
template <int T>
inline void load_tile(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store_tile(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}

// C[m][n] += the sum over k of A[m][k] B[k / 2][n][k % 2], bfloat16; subnormal numbers are zeros
template <int C, int A, int B>
inline void dot_tiles() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace
}  // namespace expertly
