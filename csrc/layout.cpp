#include "layout.h"

namespace expertly {

namespace {

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

int64_t super_bytes(Scales scales, int64_t groups) {
    const int64_t supers = groups * kGroup / kSuper;
    switch (scales) {
        case Scales::bytes_min:
        case Scales::half_groups_min:
            return supers * 64;
        case Scales::half_groups:
            return supers * 32;
        case Scales::row_min:
            return 128;
        default:
            return 0;
    }
}

int64_t float_tile_bytes(Format format, int64_t columns) {
    const int64_t padded = format == Format::bf16 ? round_up(columns, 2) : columns;
    return round_up(padded * kTileRows * (format == Format::f32 ? 4 : 2), 64);
}

}  // namespace

Layout layout_of(Format format, int64_t rows, int64_t columns) {
    const Scheme& scheme = scheme_of(format);
    Layout layout{};
    layout.rows = rows;
    layout.columns = columns;
    layout.tiles = (rows + kTileRows - 1) / kTileRows;
    layout.groups = (columns + kGroup - 1) / kGroup;
    if (scheme.codes == Codes::floats) {
        layout.tile_bytes = float_tile_bytes(format, columns);
        return layout;
    }
    layout.scales = round_up(super_bytes(scheme.scales, layout.groups), 64);
    layout.high = layout.scales + round_up(layout.groups * scale_bytes(scheme.scales), 64);
    layout.codes = layout.high + layout.groups * high_bytes(scheme.codes);
    layout.tile_bytes = layout.codes + layout.groups * code_bytes(scheme.codes);
    return layout;
}

}  // namespace expertly
