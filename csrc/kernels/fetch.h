// Weights that will be wanted soon, on their way from memory while others are computed.
#pragma once

#include <cstdint>

#include "../kernels.h"

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

// the part of the strip that is fetched while panel `i` of `count` is computed: all at once would
// take the places where other loads wait for the caches
inline Strip share_of(const Strip& strip, const Layout& layout, int64_t i, int64_t count) {
    const int64_t begin = strip.count * i / count, end = strip.count * (i + 1) / count;
    return {strip.data + begin * layout.tile_bytes, end - begin};
}

}  // namespace
}  // namespace expertly
