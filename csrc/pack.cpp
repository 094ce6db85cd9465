#include "pack.h"

#include "blocks.h"
#include "half.h"

namespace expertly {

namespace {

void copy16(uint8_t* to, int row, const uint8_t* from) { std::memcpy(to + 2 * row, from, 2); }

// codes of one row's group into the planes of its tile
void put_codes(Codes codes, const uint32_t* c, int row, uint8_t* code, uint8_t* high) {
    const auto put = [row](uint8_t* plane, int vector, uint32_t value) {
        std::memcpy(plane + vector * 64 + row * 4, &value, 4);
    };
    const auto nibbles = [&] {
        for (int j = 0; j < 4; ++j)
            put(code, j, (c[j] & 0x0F0F0F0F) | (c[j + 4] & 0x0F0F0F0F) << 4);
    };
    const auto pairs = [&](uint8_t* plane, int shift) {
        for (int v = 0; v < 2; ++v) {
            uint32_t all = 0;
            for (int i = 0; i < 4; ++i) all |= ((c[4 * v + i] >> shift) & 0x03030303) << (2 * i);
            put(plane, v, all);
        }
    };
    const auto singles = [&](int shift) {
        uint32_t all = 0;
        for (int j = 0; j < 8; ++j) all |= ((c[j] >> shift) & 0x01010101) << j;
        put(high, 0, all);
    };
    switch (codes) {
        case Codes::floats: return;
        case Codes::bytes:
            for (int j = 0; j < 8; ++j) put(code, j, c[j]);
            return;
        case Codes::nibbles: return nibbles();
        case Codes::fives: return nibbles(), singles(4);
        case Codes::sixes: return nibbles(), pairs(high, 4);
        case Codes::twos: return pairs(code, 0);
        case Codes::threes: return pairs(code, 0), singles(2);
    }
}

// the scales of one row's group into the scales plane, whose part for the group is at `to`
void put_scales(Format format, const uint8_t* block, int group, int row, uint8_t* to) {
    switch (format) {
        case Format::q4_1:
        case Format::q5_1:
            copy16(to + 32, row, block + 2);
            [[fallthrough]];
        case Format::q8_0:
        case Format::q4_0:
        case Format::q5_0:
        case Format::iq4_nl:
            return copy16(to, row, block);
        case Format::mxfp4:
            to[row] = block[0];
            return;
        case Format::i4:
            to[row] = block[0], to[16 + row] = block[1];
            return;
        case Format::q4_k:
        case Format::q5_k:
            return k_scale_min(block + 4, group, to + row, to + 16 + row);
        case Format::q6_k:
            to[row] = block[192 + 2 * group], to[16 + row] = block[193 + 2 * group];
            return;
        case Format::q3_k:
            to[row] = static_cast<uint8_t>(q3_k_scale(block + 96, 2 * group));
            to[16 + row] = static_cast<uint8_t>(q3_k_scale(block + 96, 2 * group + 1));
            return;
        case Format::q2_k:
            to[row] = block[2 * group], to[16 + row] = block[2 * group + 1];
            return;
        default: return;
    }
}

// what one row's super-block says once, into the supers plane, whose part for it is at `to`
void put_super(Format format, const uint8_t* block, int row, uint8_t* to) {
    switch (format) {
        case Format::q4_k:
        case Format::q5_k:
            copy16(to, row, block);
            return copy16(to + 32, row, block + 2);
        case Format::q2_k:
            copy16(to, row, block + 80);
            return copy16(to + 32, row, block + 82);
        case Format::q6_k: return copy16(to, row, block + 208);
        case Format::q3_k: return copy16(to, row, block + 108);
        default: return;
    }
}

int64_t super_stride(Scales scales) { return scales == Scales::half_groups ? 32 : 64; }

void pack_quantised(const Layout& layout, Format format, const uint8_t* from, int row,
                    uint8_t* tile) {
    const Scheme& scheme = scheme_of(format);
    const Block& block = block_of(format);
    if (format == Format::i4) {
        std::memcpy(tile + 4 * row, from, 4);
        std::memcpy(tile + 64 + 4 * row, from + 4, 4);
    }
    const int groups_a_block = block.size / kGroup;
    uint32_t codes[8];
    for (int64_t g = 0; g < layout.groups; ++g) {
        const int64_t index = g / groups_a_block;
        const int group = static_cast<int>(g % groups_a_block);
        const uint8_t* here = from + block.row_bytes + index * block.num_bytes;
        codes_of(format, here, group, codes);
        put_codes(scheme.codes, codes, row, tile + layout.codes + g * code_bytes(scheme.codes),
                  tile + layout.high + g * high_bytes(scheme.codes));
        put_scales(format, here, group, row, tile + layout.scales + g * scale_bytes(scheme.scales));
        if (group == 0) put_super(format, here, row, tile + index * super_stride(scheme.scales));
    }
}

// columns of one row of floats, `width` bytes each, `pair` of them adjacent
void pack_floats(int64_t columns, const uint8_t* from, int row, int width, int pair,
                 uint8_t* tile) {
    for (int64_t c = 0; c < columns; ++c) {
        const int64_t place = (c / pair * kTileRows + row) * pair + c % pair;
        std::memcpy(tile + place * width, from + c * width, static_cast<size_t>(width));
    }
}

}  // namespace

void pack_rows(const Layout& layout, Format format, const uint8_t* blocks, int64_t first,
               int64_t count, uint8_t* tiles) {
    const int64_t stride = row_bytes(format, layout.columns);
    const int64_t end = (first + count + kTileRows - 1) / kTileRows;
    uint8_t* from = tiles + first / kTileRows * layout.tile_bytes;
    const bool is_padded = (first + count) % kTileRows != 0 || layout.columns % kGroup != 0;
    if (is_padded) std::memset(from, 0, (end - first / kTileRows) * layout.tile_bytes);
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first + i;
        uint8_t* tile = tiles + at / kTileRows * layout.tile_bytes;
        const int row = static_cast<int>(at % kTileRows);
        const uint8_t* here = blocks + i * stride;
        switch (format) {
            case Format::f32: pack_floats(layout.columns, here, row, 4, 1, tile); break;
            case Format::f16: pack_floats(layout.columns, here, row, 2, 1, tile); break;
            case Format::bf16: pack_floats(layout.columns, here, row, 2, 2, tile); break;
            default: pack_quantised(layout, format, here, row, tile);
        }
    }
}

}  // namespace expertly
