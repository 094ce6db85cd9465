#include "activation_buffer.h"

#include <cstring>

namespace expertly {

void ActivationBuffer::resize(int64_t rows, int64_t columns, Forms forms, const float* x) {
    forms_ = forms;
    columns_ = columns;
    row_groups_ = (columns + kGroup - 1) / kGroup;
    floats_ = nullptr;
    if (forms.floats && x == nullptr) floats_ = own_floats_.get<float>(rows * columns);
    x_ = x ? x : floats_;
    if (forms.bf16) bf16_ = own_bf16_.get<uint16_t>(rows * ((columns + 1) / 2 * 2));
    if (!forms.groups) return;
    const int64_t n = rows * row_groups_;
    groups_ = own_groups_.get<uint8_t>(n * (kRecordBytes + kHalvesBytes));
    halves_ = forms.halves ? groups_ + n * kRecordBytes : nullptr;
}

// in place: the copy of a returned panel would wait, as wide loads do for narrow stores before them
void ActivationBuffer::set_panel(const Span& span, int64_t index, Panel& panel) const {
    const int64_t row = span.first() + span.begin(index);
    panel.n = static_cast<int>(span.size(index));
    panel.row_floats = columns_;
    panel.x = forms_.floats ? x_ + row * columns_ : nullptr;
    panel.bf16 = forms_.bf16 ? bf16_row(row) : nullptr;
    panel.groups = forms_.groups ? groups_ + row * row_groups_ * kRecordBytes : nullptr;
    panel.halves = forms_.halves ? halves_ + row * row_groups_ * kHalvesBytes : nullptr;
}

GroupPlaces ActivationBuffer::places(const Span& span, int64_t panel, int64_t i,
                                     int64_t group) const {
    const int64_t n = span.size(panel);
    const int64_t before = (span.first() + span.begin(panel)) * row_groups_ + group * n;
    uint8_t* halves = forms_.halves ? halves_ + before * kHalvesBytes : nullptr;
    return places_in(groups_ + before * kRecordBytes, halves, n, i);
}

void ActivationBuffer::fill(const Kernels& kernels, const Span& span, int64_t row,
                            const float* x) {
    const int64_t at = span.first() + row;
    if (floats_ != nullptr)
        std::memcpy(floats_ + at * columns_, x, static_cast<size_t>(columns_) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, columns_, bf16_row(at));
    if (!forms_.groups) return;
    const int64_t panel = span.panel_of(row);
    kernels.quantise_row(x, columns_, places(span, panel, row - span.begin(panel), 0));
}

void ActivationBuffer::copy_groups(const Span& span, int64_t panel, const ActivationBuffer& from,
                                   const int32_t* rows) {
    const int64_t n = span.size(panel), before = (span.first() + span.begin(panel)) * row_groups_;
    uint8_t* to = groups_ + before * kRecordBytes;
    uint8_t* halves = forms_.halves ? halves_ + before * kHalvesBytes : nullptr;
    for (int64_t g = 0; g < row_groups_; ++g, to += n * kRecordBytes) {
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = rows[i] * row_groups_ + g;
            const uint8_t* record = from.groups_ + at * kRecordBytes;
            std::memcpy(to + i * kGroup, record, kGroup);
            for (int64_t field = kGroup; field < kRecordBytes; field += 4)
                std::memcpy(to + n * field + i * 4, record + field, 4);
            if (halves == nullptr) continue;
            const uint8_t* both = from.halves_ + at * kHalvesBytes;
            for (int64_t field = 0; field < kHalvesBytes; field += 8)
                std::memcpy(halves + g * n * kHalvesBytes + n * field + i * 8, both + field, 8);
        }
    }
}

void ActivationBuffer::copy(const Span& span, int64_t panel, const ActivationBuffer& from,
                            const int32_t* rows) {
    const int64_t first = span.first() + span.begin(panel);
    const auto bf16_bytes = static_cast<size_t>(bf16_row(1) - bf16_row(0)) * sizeof(uint16_t);
    for (int64_t i = 0; i < span.size(panel); ++i) {
        if (floats_ != nullptr)
            std::memcpy(floats_ + (first + i) * columns_, from.x_ + rows[i] * columns_,
                        static_cast<size_t>(columns_) * sizeof(float));
        if (forms_.bf16) std::memcpy(bf16_row(first + i), from.bf16_row(rows[i]), bf16_bytes);
    }
    if (forms_.groups) copy_groups(span, panel, from, rows);
}

void ActivationBuffer::fill_columns(const Kernels& kernels, const Span& span, int64_t panel,
                                    int64_t i, int64_t group, const float* x, int64_t n) {
    const int64_t at = span.first() + span.begin(panel) + i, first = group * kGroup;
    if (floats_ != nullptr)
        std::memcpy(floats_ + at * columns_ + first, x, static_cast<size_t>(n) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, n, bf16_row(at) + first);
    if (forms_.groups) kernels.quantise_row(x, n, places(span, panel, i, group));
}

}  // namespace expertly
