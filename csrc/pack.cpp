#include "pack.h"

#include <algorithm>
#include <utility>

#include "blocks.h"
#include "half.h"

namespace expertly {

namespace {

// so that what is asked of a format is known when its row is compiled
#define I_INLINE inline __attribute__((always_inline))

void copy16(uint8_t* to, int row, const uint8_t* from) { std::memcpy(to + 2 * row, from, 2); }

// codes of one row's group into the planes of its tile
I_INLINE void put_codes(Codes codes, const uint32_t* c, int row, uint8_t* code, uint8_t* high) {
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
            for (int j = 0; j < 8; ++j) put(code, j, c[j] ^ 0x80808080);
            return;
        case Codes::nibbles: return nibbles();
        case Codes::fives: return nibbles(), singles(4);
        case Codes::sixes: return nibbles(), pairs(high, 4);
        case Codes::twos: return pairs(code, 0);
        case Codes::threes: return pairs(code, 0), singles(2);
    }
}

// the scales of one row's group into the scales plane, whose part for the group is at `to`
I_INLINE void put_scales(Format format, const uint8_t* block, int group, int row, uint8_t* to) {
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
I_INLINE void put_super(Format format, const uint8_t* block, int row, uint8_t* to) {
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

// `count` rows, `stride` bytes from one to the next, from row `first` of a tile on
struct RowsOf {
    const uint8_t* from;
    int64_t stride;
    int first, count;
};
using PackTile = void (*)(const Layout& layout, const RowsOf& rows, uint8_t* tile);

// group by group, as rows of one group share lines
template <Format format>
void pack_quantised(const Layout& layout, const RowsOf& rows, uint8_t* tile) {
    constexpr Scheme scheme = scheme_of(format);
    constexpr Block block = block_of(format);
    constexpr int groups_a_block = block.size < kGroup ? 1 : block.size / kGroup;
    const int64_t high_step = high_bytes(scheme.codes), code_step = code_bytes(scheme.codes);
    const int64_t scale_step = scale_bytes(scheme.scales), super_step = super_stride(scheme.scales);
    for (int64_t g = 0; g < layout.groups; ++g) {
        const int64_t index = g / groups_a_block;
        const int group = static_cast<int>(g % groups_a_block);
        for (int r = 0; r < rows.count; ++r) {
            const int row = rows.first + r;
            const uint8_t* here =
                rows.from + r * rows.stride + block.row_bytes + index * block.num_bytes;
            uint32_t codes[8];
            codes_of(format, here, group, codes);
            put_codes(scheme.codes, codes, row, tile + layout.codes + g * code_step,
                      tile + layout.high + g * high_step);
            put_scales(format, here, group, row, tile + layout.scales + g * scale_step);
            if (group == 0) put_super(format, here, row, tile + index * super_step);
        }
    }
    if constexpr (format == Format::i4)
        for (int r = 0; r < rows.count; ++r) {
            const uint8_t* here = rows.from + r * rows.stride;
            std::memcpy(tile + 4 * (rows.first + r), here, 4);
            std::memcpy(tile + 64 + 4 * (rows.first + r), here + 4, 4);
        }
}

template <int... F>
PackTile tile_packer(Format format, std::integer_sequence<int, F...>) {
    static constexpr PackTile table[] = {pack_quantised<static_cast<Format>(F)>...};
    return table[static_cast<int>(format)];
}

// columns of rows of floats, `width` bytes each, `pair` of them adjacent
void pack_floats(int64_t columns, const RowsOf& rows, int width, int pair, uint8_t* tile) {
    for (int r = 0; r < rows.count; ++r)
        for (int64_t c = 0; c < columns; ++c) {
            const int64_t place = (c / pair * kTileRows + rows.first + r) * pair + c % pair;
            std::memcpy(tile + place * width, rows.from + r * rows.stride + c * width,
                        static_cast<size_t>(width));
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
    constexpr int formats = static_cast<int>(Format::count);
    const PackTile quantised = tile_packer(format, std::make_integer_sequence<int, formats>());
    for (int64_t i = 0; i < count;) {
        const int64_t at = first + i;
        uint8_t* tile = tiles + at / kTileRows * layout.tile_bytes;
        const int row = static_cast<int>(at % kTileRows);
        const int rows = static_cast<int>(std::min<int64_t>(kTileRows - row, count - i));
        const RowsOf here{blocks + i * stride, stride, row, rows};
        switch (format) {
            case Format::f32: pack_floats(layout.columns, here, 4, 1, tile); break;
            case Format::f16: pack_floats(layout.columns, here, 2, 1, tile); break;
            case Format::bf16: pack_floats(layout.columns, here, 2, 2, tile); break;
            default: quantised(layout, here, tile);
        }
        i += rows;
    }
}

}  // namespace expertly
