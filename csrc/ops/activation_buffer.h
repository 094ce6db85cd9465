// Scratch that holds rows of activations in the forms that some formats want.
#pragma once

#include <algorithm>

#include "../activations.h"
#include "../buffer.h"
#include "../kernels.h"

namespace expertly {

// a set of `Wanted`
struct Forms {
    bool floats = false, bf16 = false, groups = false, halves = false;

    void add(Format format) {
        const Wanted wanted = wanted_by(format);
        floats |= wanted == Wanted::floats;
        bf16 |= wanted == Wanted::bf16;
        groups |= wanted == Wanted::groups;
        halves |= has_halves(scheme_of(format).scales);
    }
};

// rows that stand together, cut into as few panels as can be, all nearly of one size
class Span {
public:
    Span(int64_t first, int64_t count, int max_rows)
        : first_(first),
          count_(count),
          panels_((count + max_rows - 1) / max_rows),
          least_(panels_ ? count / panels_ : 0),
          larger_(panels_ ? count % panels_ : 0) {}

    int64_t first() const { return first_; }
    int64_t count() const { return count_; }
    int64_t panels() const { return panels_; }
    int64_t begin(int64_t panel) const { return panel * least_ + std::min(panel, larger_); }
    int64_t size(int64_t panel) const { return least_ + (panel < larger_ ? 1 : 0); }
    int64_t panel_of(int64_t row) const {
        const int64_t in_larger = larger_ * (least_ + 1);
        if (row < in_larger) return row / (least_ + 1);
        return larger_ + (row - in_larger) / least_;
    }

private:
    int64_t first_, count_, panels_;
    int64_t least_, larger_;  // rows of a panel, and how many panels have one more
};

class ActivationBuffer {
public:
    // room for `rows` rows; the float form, if wanted, has its own room unless `x` is given, rows
    // of which are `columns` apart
    void resize(int64_t rows, int64_t columns, Forms forms, const float* x = nullptr);

    // row `row` of a span, in the wanted forms, from its floats
    void fill(const Kernels& kernels, const Span& span, int64_t row, const float* x);
    // a panel of a span, from rows of another buffer of the same columns and forms, whose panels are
    // of one row each
    void copy(const Span& span, int64_t panel, const ActivationBuffer& from, const int32_t* rows);
    // columns 32 * group onwards of row `i` of a panel, `n` of them: whole groups, or up to the end
    // of the row
    void fill_columns(const Kernels& kernels, const Span& span, int64_t panel, int64_t i,
                      int64_t group, const float* x, int64_t n);

    void set_panel(const Span& span, int64_t index, Panel& panel) const;

private:
    // of row `i` of a panel, from a group on
    GroupPlaces places(const Span& span, int64_t panel, int64_t i, int64_t group) const;
    void copy_groups(const Span& span, int64_t panel, const ActivationBuffer& from,
                     const int32_t* rows);
    uint16_t* bf16_row(int64_t row) const { return bf16_ + row * ((columns_ + 1) / 2 * 2); }

    Forms forms_{};
    int64_t columns_ = 0, row_groups_ = 0;
    const float* x_ = nullptr;
    float* floats_ = nullptr;
    uint16_t* bf16_ = nullptr;
    uint8_t* groups_ = nullptr;
    uint8_t* halves_ = nullptr;
    Scratch own_floats_, own_bf16_, own_groups_;
};

}  // namespace expertly
