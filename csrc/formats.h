// The weight formats: their names and the sizes of their blocks in files.
#pragma once

#include <cstddef>
#include <cstdint>

namespace expertly {

enum class Format : int {
    f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k, q3_k, q2_k, iq4_nl, mxfp4, i4,
    count
};

struct Block {
    const char* name;
    int size;       // weights a block
    int num_bytes;  // bytes a block
    int row_bytes;  // bytes that a row begins with, before its blocks
};

// order of the enum; block types as in the GGUF specification, i4 is our own
constexpr Block kBlocks[] = {
    {"f32", 1, 4, 0},     {"f16", 1, 2, 0},      {"bf16", 1, 2, 0},    {"q8_0", 32, 34, 0},
    {"q4_0", 32, 18, 0},  {"q4_1", 32, 20, 0},   {"q5_0", 32, 22, 0},  {"q5_1", 32, 24, 0},
    {"q4_k", 256, 144, 0}, {"q5_k", 256, 176, 0}, {"q6_k", 256, 210, 0}, {"q3_k", 256, 110, 0},
    {"q2_k", 256, 84, 0}, {"iq4_nl", 32, 18, 0}, {"mxfp4", 32, 17, 0}, {"i4", 32, 18, 8},
};
static_assert(sizeof(kBlocks) / sizeof(kBlocks[0]) == static_cast<size_t>(Format::count));

inline constexpr const Block& block_of(Format format) {
    return kBlocks[static_cast<int>(format)];
}

// bytes of one row of `columns` weights as files hold it; columns are padded to whole blocks
inline constexpr int64_t row_bytes(Format format, int64_t columns) {
    const Block& block = block_of(format);
    return block.row_bytes + (columns + block.size - 1) / block.size * block.num_bytes;
}

}  // namespace expertly
