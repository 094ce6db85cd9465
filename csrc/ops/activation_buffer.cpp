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

Panel ActivationBuffer::panel(const Span& span, int64_t index) const {
    const int64_t row = span.first() + span.begin(index);
    Panel panel{};
    panel.n = static_cast<int>(span.size(index));
    panel.row_floats = columns_;
    if (forms_.floats) panel.x = x_ + row * columns_;
    if (forms_.bf16) panel.bf16 = bf16_row(row);
    if (!forms_.groups) return panel;
    panel.groups = groups_ + row * row_groups_ * kRecordBytes;
    if (forms_.halves) panel.halves = halves_ + row * row_groups_ * kHalvesBytes;
    return panel;
}

GroupPlaces ActivationBuffer::places(const Span& span, int64_t row) const {
    const int64_t index = span.panel_of(row), begin = span.begin(index);
    const int64_t before = (span.first() + begin) * row_groups_;
    uint8_t* halves = forms_.halves ? halves_ + before * kHalvesBytes : nullptr;
    return places_in(groups_ + before * kRecordBytes, halves, span.size(index), row - begin);
}

void ActivationBuffer::fill(const Kernels& kernels, const Span& span, int64_t row,
                            const float* x) {
    const int64_t at = span.first() + row;
    if (floats_ != nullptr)
        std::memcpy(floats_ + at * columns_, x, static_cast<size_t>(columns_) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, columns_, bf16_row(at));
    if (forms_.groups) kernels.quantise_row(x, columns_, places(span, row));
}

namespace {

void copy_group(const GroupPlaces& from, const GroupPlaces& to) {
    std::memcpy(to.q, from.q, kGroup);
    *to.scale = *from.scale;
    *to.start = *from.start;
    *to.signed_start = *from.signed_start;
    *to.sum = *from.sum;
    if (to.half_starts == nullptr) return;
    std::memcpy(to.half_starts, from.half_starts, 2 * sizeof(int32_t));
    std::memcpy(to.half_sums, from.half_sums, 2 * sizeof(float));
}

}  // namespace

void ActivationBuffer::copy(const Span& span, int64_t row, const ActivationBuffer& from,
                            const Span& from_span, int64_t from_row) {
    const int64_t at = span.first() + row, from_at = from_span.first() + from_row;
    if (floats_ != nullptr)
        std::memcpy(floats_ + at * columns_, from.x_ + from_at * columns_,
                    static_cast<size_t>(columns_) * sizeof(float));
    if (forms_.bf16)
        std::memcpy(bf16_row(at), from.bf16_row(from_at),
                    static_cast<size_t>(bf16_row(1) - bf16_row(0)) * sizeof(uint16_t));
    if (!forms_.groups) return;
    const GroupPlaces to = places(span, row), source = from.places(from_span, from_row);
    for (int64_t g = 0; g < row_groups_; ++g) copy_group(source.at(g), to.at(g));
}

void ActivationBuffer::fill_group(const Kernels& kernels, const Span& span, int64_t row,
                                  int64_t group, const float* x, int64_t n) {
    const int64_t at = span.first() + row, first = group * kGroup;
    if (floats_ != nullptr)
        std::memcpy(floats_ + at * columns_ + first, x, static_cast<size_t>(n) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, n, bf16_row(at) + first);
    if (forms_.groups) kernels.quantise_row(x, n, places(span, row).at(group));
}

}  // namespace expertly
