// Groups of 32 weights inside the blocks of files: their codes in step order, and their scales.
//
// Codes come as 8 words of 4 bytes, word j for columns 4j..4j+3 of the group. Layouts of the block
// types: the GGUF specification; i4: see formats.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "layout.h"

namespace expertly {
namespace {

inline uint32_t word(const uint8_t* p) {
    uint32_t value;
    std::memcpy(&value, p, 4);
    return value;
}

// 16 bytes of nibbles, columns 0..15 in the low halves
inline void nibble_codes(const uint8_t* p, uint32_t* c) {
    for (int j = 0; j < 4; ++j) {
        c[j] = word(p + 4 * j) & 0x0F0F0F0F;
        c[j + 4] = (word(p + 4 * j) >> 4) & 0x0F0F0F0F;
    }
}

// 4 bits spread to the lowest bit of 4 bytes
inline uint32_t spread(uint32_t bits) {
    return (bits & 1) | (bits & 2) << 7 | (bits & 4) << 14 | (bits & 8) << 21;
}

// a 32-bit mask, bit k for column k, onto bit `to` of the codes
inline void add_mask(const uint8_t* p, int to, uint32_t* c) {
    const uint32_t mask = word(p);
    for (int j = 0; j < 8; ++j) c[j] |= spread(mask >> (4 * j)) << to;
}

inline void q5_0_codes(const uint8_t* block, int skip, uint32_t* c) {
    nibble_codes(block + skip + 4, c);
    add_mask(block + skip, 4, c);
}

inline void q8_0_codes(const uint8_t* block, uint32_t* c) {
    for (int j = 0; j < 8; ++j) c[j] = word(block + 2 + 4 * j);
}

// q4_k and q5_k: pairs of groups share 32 bytes, the even one in the low halves
inline void k_nibbles(const uint8_t* quants, int group, uint32_t* c) {
    const uint8_t* p = quants + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int j = 0; j < 8; ++j) c[j] = (word(p + 4 * j) >> shift) & 0x0F0F0F0F;
}

inline void q5_k_codes(const uint8_t* block, int group, uint32_t* c) {
    k_nibbles(block + 48, group, c);
    for (int j = 0; j < 8; ++j)
        c[j] |= ((word(block + 16 + 4 * j) >> group) & 0x01010101) << 4;
}

// halves of 128 columns: 64 bytes of low nibbles and 32 of high pairs each
inline void q6_k_codes(const uint8_t* block, int group, uint32_t* c) {
    const int half = group / 4, quarter = group % 4;
    const uint8_t* low = block + half * 64 + quarter % 2 * 32;
    const uint8_t* high = block + 128 + half * 32;
    for (int j = 0; j < 8; ++j) {
        const uint32_t four = (word(low + 4 * j) >> (quarter / 2 * 4)) & 0x0F0F0F0F;
        const uint32_t two = (word(high + 4 * j) >> (quarter * 2)) & 0x03030303;
        c[j] = four | two << 4;
    }
}

// q2_k and q3_k: halves of 128 columns in 32 bytes, a group in each pair of bits
inline void k_pairs(const uint8_t* quants, int group, uint32_t* c) {
    const uint8_t* p = quants + group / 4 * 32;
    const int shift = group % 4 * 2;
    for (int j = 0; j < 8; ++j) c[j] = (word(p + 4 * j) >> shift) & 0x03030303;
}

inline void q3_k_codes(const uint8_t* block, int group, uint32_t* c) {
    k_pairs(block + 32, group, c);
    for (int j = 0; j < 8; ++j) c[j] |= ((word(block + 4 * j) >> group) & 0x01010101) << 2;
}

// the 6-bit scale and minimum of a group of q4_k or q5_k, from their 12 bytes
inline void k_scale_min(const uint8_t* p, int group, uint8_t* scale, uint8_t* min) {
    if (group < 4) {
        *scale = p[group] & 63;
        *min = p[group + 4] & 63;
        return;
    }
    *scale = static_cast<uint8_t>((p[group + 4] & 15) | (p[group - 4] >> 6) << 4);
    *min = static_cast<uint8_t>((p[group + 4] >> 4) | (p[group] >> 6) << 4);
}

// the signed scale of 16 columns of q3_k: 6 bits less 32
inline int8_t q3_k_scale(const uint8_t* p, int sixteenth) {
    const int low = sixteenth < 8 ? p[sixteenth] & 15 : p[sixteenth - 8] >> 4;
    const int high = (p[8 + sixteenth % 4] >> (sixteenth / 4 * 2)) & 3;
    return static_cast<int8_t>((low | high << 4) - 32);
}

// codes of group `group` (of its super-block, 0 where a block is one group)
inline void codes_of(Format format, const uint8_t* block, int group, uint32_t* c) {
    switch (format) {
        case Format::q8_0: return q8_0_codes(block, c);
        case Format::q4_0:
        case Format::iq4_nl:
        case Format::i4: return nibble_codes(block + 2, c);
        case Format::q4_1: return nibble_codes(block + 4, c);
        case Format::mxfp4: return nibble_codes(block + 1, c);
        case Format::q5_0: return q5_0_codes(block, 2, c);
        case Format::q5_1: return q5_0_codes(block, 4, c);
        case Format::q4_k: return k_nibbles(block + 16, group, c);
        case Format::q5_k: return q5_k_codes(block, group, c);
        case Format::q6_k: return q6_k_codes(block, group, c);
        case Format::q3_k: return q3_k_codes(block, group, c);
        case Format::q2_k: return k_pairs(block + 16, group, c);
        default: return;
    }
}

}  // namespace
}  // namespace expertly
