#include "pages.h"

#include <algorithm>
#include <stdexcept>

#include "../half.h"

namespace expertly {

namespace {

constexpr int64_t kLine = 64;
// enough for a few huge pages
constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kMaxSlabPages = 64;
constexpr float kLargestHalf = 65504.0f;

int64_t in_lines(int64_t num_bytes) { return (num_bytes + kLine - 1) / kLine * kLine; }

int64_t head_elements(const CacheShape& shape) { return int64_t{kPageSize} * shape.head_size; }

// where slot `slot` of a head's keys begins; its channels are kKeyBlock elements apart
uint16_t* key_at(uint16_t* part, const CacheShape& shape, int64_t group, int64_t slot) {
    return part + group * head_elements(shape) + slot / kKeyBlock * kKeyBlock * shape.head_size +
           slot % kKeyBlock;
}

uint16_t saturated(float x) {
    // written so that a NaN stays
    if (x > kLargestHalf) x = kLargestHalf;
    if (x < -kLargestHalf) x = -kLargestHalf;
    return half_of_float(x);
}

}  // namespace

PagePool::PagePool(std::vector<CacheShape> layers) : layers_(std::move(layers)) {
    for (const CacheShape& shape : layers_) {
        offsets_.push_back(page_bytes_);
        page_bytes_ += in_lines(2 * shape.groups * head_elements(shape) * 2);
    }
    // vectors of channels reach beyond the last position's values
    page_bytes_ += kLine;
    slab_pages_ = std::clamp<int64_t>(kSlabBytes / page_bytes_, 1, kMaxSlabPages);
}

int64_t PagePool::take() {
    if (free_.empty()) {
        slabs_.push_back(std::make_unique<Buffer>(static_cast<size_t>(slab_pages_ * page_bytes_)));
        const int64_t first = static_cast<int64_t>(taken_.size());
        taken_.resize(taken_.size() + static_cast<size_t>(slab_pages_));
        for (int64_t i = slab_pages_; i-- > 0;) free_.push_back(first + i);
    }
    const int64_t page = free_.back();
    free_.pop_back();
    taken_[static_cast<size_t>(page)] = true;
    ++in_use_;
    return page;
}

void PagePool::release(int64_t page) {
    if (!is_taken(page)) throw std::invalid_argument("a page that is not taken");
    taken_[static_cast<size_t>(page)] = false;
    free_.push_back(page);
    --in_use_;
}

bool PagePool::is_taken(int64_t page) const {
    return page >= 0 && page < static_cast<int64_t>(taken_.size()) &&
           taken_[static_cast<size_t>(page)];
}

void append(const Kernels& kernels, const PagePool& pool, int64_t layer, int64_t page, int64_t slot,
            const float* k, const float* v) {
    const CacheShape& shape = pool.shape(layer);
    const int64_t C = shape.head_size;
    uint16_t* part = reinterpret_cast<uint16_t*>(pool.part(page, layer));
    uint16_t* values = part + shape.groups * head_elements(shape) + slot * C;
    uint16_t half[kPageSize];
    for (int64_t g = 0; g < shape.groups; ++g) {
        uint16_t* to = key_at(part, shape, g, slot);
        for (int64_t c = 0; c < C; c += kPageSize) {
            const int64_t n = std::min<int64_t>(kPageSize, C - c);
            kernels.attention.to_half(k + g * C + c, n, half);
            for (int64_t i = 0; i < n; ++i) to[(c + i) * kKeyBlock] = half[i];
        }
        kernels.attention.to_half(v + g * C, C, values + g * head_elements(shape));
    }
}

void turn_keys(const PagePool& pool, int64_t layer, const int32_t* pages, int64_t count,
               const float* cos, const float* sin) {
    const CacheShape& shape = pool.shape(layer);
    const int64_t half = shape.head_size / 2;
    for (int64_t n = 0; n < count; ++n, cos += half, sin += half) {
        auto* part = reinterpret_cast<uint16_t*>(pool.part(pages[n / kPageSize], layer));
        for (int64_t g = 0; g < shape.groups; ++g) {
            uint16_t* first = key_at(part, shape, g, n % kPageSize);
            uint16_t* second = first + half * kKeyBlock;
            for (int64_t c = 0; c < half; ++c, first += kKeyBlock, second += kKeyBlock) {
                const float a = float_of_half(*first), b = float_of_half(*second);
                *first = saturated(a * cos[c] - b * sin[c]);
                *second = saturated(b * cos[c] + a * sin[c]);
            }
        }
    }
}

}  // namespace expertly
