// The paged cache of keys and values: pages of 64 positions, each with a part for every layer.
#pragma once

#include <memory>
#include <vector>

#include "../buffer.h"
#include "../kernels.h"

namespace expertly {

struct CacheShape {
    int groups;  // heads of keys and values
    int head_size;
};

// Pages are made when they are first taken, several in one slab of memory, and never move. Ids
// count from 0. Taking and releasing exclude each other and every use of pages.
class PagePool {
public:
    explicit PagePool(std::vector<CacheShape> layers);
    PagePool(const PagePool&) = delete;
    PagePool& operator=(const PagePool&) = delete;

    int64_t take();
    // throws std::invalid_argument unless the page is taken
    void release(int64_t page);

    bool is_taken(int64_t page) const;
    int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
    int64_t page_bytes() const { return page_bytes_; }
    int64_t pages_in_use() const { return in_use_; }
    const CacheShape& shape(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
    uint8_t* page(int64_t id) const {
        const Buffer& slab = *slabs_[static_cast<size_t>(id / slab_pages_)];
        return slab.data() + id % slab_pages_ * page_bytes_;
    }
    // a layer's part of a page
    uint8_t* part(int64_t id, int64_t layer) const {
        return page(id) + offsets_[static_cast<size_t>(layer)];
    }

private:
    std::vector<CacheShape> layers_;
    std::vector<int64_t> offsets_;
    int64_t page_bytes_ = 0, slab_pages_ = 0, in_use_ = 0;
    std::vector<std::unique_ptr<Buffer>> slabs_;
    std::vector<bool> taken_;
    std::vector<int64_t> free_;
};

// one token's keys and values, [groups][head_size] each, into slot 0..63 of a page
void append(const Kernels& kernels, const PagePool& pool, int64_t layer, int64_t page, int64_t slot,
            const float* k, const float* v);

// the keys of a sequence's first `count` positions turned in place by position, by cos and sin
// [count][head_size / 2]: how they follow when LongRoPE changes its angles
void turn_keys(const PagePool& pool, int64_t layer, const int32_t* pages, int64_t count,
               const float* cos, const float* sin);

}  // namespace expertly
