#include "activation_buffer.h"

#include <cstring>

namespace expertly {

void ActivationBuffer::resize(int64_t rows, int64_t columns, Forms forms, const float* x,
                              int64_t x_stride) {
    forms_ = forms;
    view_ = Activations{};
    view_.columns = columns;
    view_.groups = (columns + kGroup - 1) / kGroup;
    view_.x_stride = x ? x_stride : columns;
    floats_ = nullptr;
    if (forms.floats && x == nullptr) floats_ = own_floats_.get<float>(rows * columns);
    if (forms.floats) view_.x = x ? x : floats_;
    if (forms.bf16) view_.bf16 = bf16_ = own_bf16_.get<uint16_t>(rows * ((columns + 1) / 2 * 2));
    if (!forms.groups) return;
    const int64_t n = rows * view_.groups;
    // per group: 32 codes, then scale, minus, sum and the last two a half
    uint8_t* at = own_groups_.get<uint8_t>(n * (kGroup + 4 * 7));
    groups_.q = reinterpret_cast<int8_t*>(at);
    groups_.scale = reinterpret_cast<float*>(at + n * kGroup);
    groups_.minus = reinterpret_cast<int32_t*>(groups_.scale + n);
    groups_.sum = reinterpret_cast<float*>(groups_.minus + n);
    groups_.minus_half = reinterpret_cast<int32_t*>(groups_.sum + n);
    groups_.sum_half = reinterpret_cast<float*>(groups_.minus_half + 2 * n);
    view_.q = groups_.q;
    view_.scale = groups_.scale;
    view_.minus = groups_.minus;
    view_.sum = groups_.sum;
    view_.minus_half = groups_.minus_half;
    view_.sum_half = groups_.sum_half;
}

GroupPlaces ActivationBuffer::places(int64_t t) const {
    const int64_t at = t * view_.groups;
    return groups_.at(at);
}

void ActivationBuffer::fill(const Kernels& kernels, int64_t t, const float* x) {
    if (floats_ != nullptr && x != floats(t))
        std::memcpy(floats(t), x, static_cast<size_t>(view_.columns) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, view_.columns, bf16_ + t * ((view_.columns + 1) / 2 * 2));
    if (forms_.groups) kernels.quantise_row(x, view_.columns, places(t));
}

void ActivationBuffer::fill_group(const Kernels& kernels, int64_t t, int64_t group,
                                  const float* x, int64_t n) {
    const int64_t first = group * kGroup;
    if (floats_ != nullptr)
        std::memcpy(floats(t) + first, x, static_cast<size_t>(n) * sizeof(float));
    if (forms_.bf16) kernels.to_bf16(x, n, bf16_ + t * ((view_.columns + 1) / 2 * 2) + first);
    if (forms_.groups) kernels.quantise_row(x, n, places(t).at(group));
}

}  // namespace expertly
