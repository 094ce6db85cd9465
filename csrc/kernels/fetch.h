// Weights that will be wanted soon, on their way from memory while others are computed.
#pragma once

#include <cstdint>

namespace expertly {
namespace {

// bytes in equal parts, a part a call of next()
class Fetch {
public:
    Fetch(const uint8_t* data, int64_t num_bytes, int64_t parts)
        : at_(data), end_(data + num_bytes), until_(data), step_((num_bytes + parts - 1) / parts) {}

    // into the second-level cache, which can wait for far more lines at once than the first
    void next() {
        if (at_ >= end_) return;
        until_ += step_;
        for (; at_ < until_ && at_ < end_; at_ += 64) __builtin_prefetch(at_, 0, 2);
    }

private:
    const uint8_t* at_;
    const uint8_t* end_;
    const uint8_t* until_;
    int64_t step_;
};

}  // namespace
}  // namespace expertly
