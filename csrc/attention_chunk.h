// Keys and values in pages, and what attention computes of one chunk of them.
//
// A page holds 64 positions of a sequence. A layer's part of it is IEEE float16: the keys of each
// head in 4 blocks of 16 positions, a block as [head_size][16 positions]; then the values of each
// head as [64 positions][head_size].
#pragma once

#include <cstdint>

namespace expertly {

constexpr int kPageSize = 64;
constexpr int kKeyBlock = 16;
// positions whose softmax is one piece; chunks begin at multiples of it in every sequence, so
// that a row's result does not depend on how a prompt was cut
constexpr int kChunkSize = 512;
constexpr int kChunkPages = kChunkSize / kPageSize;

// a row's part of attention: sum of e^(s - most) * v (`mix`, padded), then most, then the sum of
// e^(s - most), then padding to whole cache lines; a sum of 0: nothing seen yet
constexpr int64_t mix_width(int64_t head_size) { return (head_size + 31) / 32 * 32; }
constexpr int64_t part_width(int64_t head_size) { return mix_width(head_size) + 16; }

struct AttentionChunk {
    // where the keys of one head begin in each page; null for pages that no row sees
    const uint8_t* pages[kChunkPages];
    int64_t values;  // bytes from there to the head's values
    int64_t head_size;
    int64_t rows;
    const float* const* q;  // [rows], head_size floats each
    float scale;
    // [rows], positions seen, counted from the chunk's first; an empty range: none
    const int32_t* begin;
    const int32_t* end;
    float* room;   // chunk_room floats, 64-byte aligned
    float* parts;  // [rows][part_width], written
};

// scores, queries, and a block of keys or values in float32
constexpr int64_t chunk_room(int64_t rows, int64_t head_size) {
    return rows * (kChunkSize + mix_width(head_size)) + kPageSize * mix_width(head_size);
}

struct AttentionKernels {
    void (*chunk)(const AttentionChunk& chunk);
    // into = both parts as one; in the chunks' order
    void (*merge)(const float* part, int64_t head_size, float* into);
    // y = part with `sink` as one more logit that has no value (-infinity: none)
    void (*finish)(const float* part, float sink, int64_t head_size, float* y);
    // to nearest even, at most +-65504; NaN stays
    void (*to_half)(const float* x, int64_t n, uint16_t* y);
    // pairs (i, i + half) turned by an angle each
    void (*rotate)(const float* cos, const float* sin, int64_t half, float* x);
};

}  // namespace expertly
