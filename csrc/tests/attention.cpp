// Attention of a few rows to chunks of cached keys and values: as generic has it, to the bit.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "../half.h"
#include "check.h"

namespace expertly {

namespace {

constexpr int64_t kHeadSizes[] = {2, 6, 10, 16, 24, 64, 80, 128};
constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 5, 8, 9, 13};
// vectors of channels may reach so many halves beyond a page's last values
constexpr int64_t kPadding = 32;
constexpr float kNone = -std::numeric_limits<float>::infinity();

int64_t aligned(int64_t n) { return (n + 15) / 16 * 16; }

struct Shape {
    int64_t rows, head_size;
    int64_t longest;  // at most so many positions are seen
    bool is_strange;  // infinities, NaN and the like in queries, keys and values
};

// what some rows see of a chunk, and the chunk; each array before a guard
class Chunk {
public:
    Chunk(const Shape& shape, Random& random)
        : shape_(shape), begin_(shape.rows), end_(shape.rows) {
        place_ranges(random);
        for (int64_t page = 0; page < kChunkPages; ++page)
            if (is_seen(page)) pages_[page] = make_page(page, random);
        for (int64_t row = 0; row < shape.rows; ++row) {
            const bool is_strange = shape.is_strange && random.below(3) == 0;
            q_.push_back(std::make_unique<Guarded<float>>(
                is_strange ? random.strange_row(shape.head_size) : random.row(shape.head_size)));
            places_.push_back(q_.back()->data());
        }
    }

    // [rows][part_width]
    std::unique_ptr<Guarded<float>> parts(const Kernels& kernels) const {
        const int64_t rows = shape_.rows, C = shape_.head_size;
        const Guarded<float> room(aligned(chunk_room(rows, C)));
        auto parts = std::make_unique<Guarded<float>>(rows * part_width(C));
        AttentionChunk chunk{};
        for (int64_t i = 0; i < kChunkPages; ++i)
            chunk.pages[i] = pages_[i] ? reinterpret_cast<uint8_t*>(pages_[i]->data()) : nullptr;
        chunk.values = kPageSize * C * 2;
        chunk.head_size = C, chunk.rows = rows, chunk.scale = 0.3f;
        chunk.q = places_.data(), chunk.begin = begin_.data(), chunk.end = end_.data();
        chunk.room = room.data(), chunk.parts = parts->data();
        kernels.attention.chunk(chunk);
        return parts;
    }

private:
    // rows see the positions up to their own, or some of them, or none
    void place_ranges(Random& random) {
        for (int64_t row = 0; row < shape_.rows; ++row) {
            const int64_t end = 1 + random.below(shape_.longest);
            const int64_t begin = random.below(2) ? 0 : random.below(end);
            const bool sees_none = random.below(8) == 0;
            begin_.data()[row] = static_cast<int32_t>(sees_none ? 0 : begin);
            end_.data()[row] = static_cast<int32_t>(sees_none ? 0 : end);
        }
    }

    // the pages between those that rows see are there too
    bool is_seen(int64_t page) const {
        int64_t first = kChunkSize, last = 0;
        for (int64_t row = 0; row < shape_.rows; ++row) {
            if (begin_.data()[row] >= end_.data()[row]) continue;
            first = std::min<int64_t>(first, begin_.data()[row]);
            last = std::max<int64_t>(last, end_.data()[row]);
        }
        return page * kPageSize < last && (page + 1) * kPageSize > first;
    }

    bool is_seen_position(int64_t position) const {
        for (int64_t row = 0; row < shape_.rows; ++row)
            if (begin_.data()[row] <= position && position < end_.data()[row]) return true;
        return false;
    }

    uint16_t half(Random& random) const {
        const bool is_strange = shape_.is_strange && random.below(100) == 0;
        if (is_strange) return static_cast<uint16_t>(random.bits());
        return half_of_float(random.normal());
    }

    // what no row sees stays NaN
    std::unique_ptr<Guarded<uint16_t>> make_page(int64_t index, Random& random) const {
        const int64_t C = shape_.head_size;
        auto page = std::make_unique<Guarded<uint16_t>>(2 * kPageSize * C + kPadding);
        uint16_t* keys = page->data();
        uint16_t* values = keys + kPageSize * C;
        for (int64_t slot = 0; slot < kPageSize; ++slot) {
            if (!is_seen_position(index * kPageSize + slot)) continue;
            uint16_t* key = keys + slot / kKeyBlock * kKeyBlock * C + slot % kKeyBlock;
            for (int64_t c = 0; c < C; ++c) {
                key[c * kKeyBlock] = half(random);
                values[slot * C + c] = half(random);
            }
        }
        return page;
    }

    Shape shape_;
    Guarded<int32_t> begin_, end_;
    std::unique_ptr<Guarded<uint16_t>> pages_[kChunkPages];
    std::vector<std::unique_ptr<Guarded<float>>> q_;
    std::vector<const float*> places_;
};

class AttentionCheck {
public:
    AttentionCheck(Check& check, const Shape& shape)
        : check_(check), shape_(shape), head_size_(shape.head_size),
          what_(std::to_string(shape.rows) + " rows of " + std::to_string(shape.head_size) +
                (shape.is_strange ? " strange channels" : " channels")) {}

    void run(Random& random) {
        const Chunk first(shape_, random), second(shape_, random);
        const auto ours = first.parts(check_.kernels), theirs = first.parts(kGenericKernels);
        const auto ours_next = second.parts(check_.kernels);
        const auto theirs_next = second.parts(kGenericKernels);
        for (int64_t row = 0; row < shape_.rows; ++row) {
            const Guarded<float> into(part(*ours, row)), expected(part(*theirs, row));
            same(into, expected, "attention, ");
            const Guarded<float> next(part(*ours_next, row)), other(part(*theirs_next, row));
            check_.kernels.attention.merge(next.data(), head_size_, into.data());
            kGenericKernels.attention.merge(other.data(), head_size_, expected.data());
            same(into, expected, "merged, ");
            for (float sink : {kNone, 0.5f, 300.0f}) check_finish(into, expected, sink);
        }
    }

private:
    std::vector<float> part(const Guarded<float>& parts, int64_t row) const {
        const int64_t width = part_width(head_size_);
        return {parts.data() + row * width, parts.data() + (row + 1) * width};
    }

    // channels, the largest score and the sum; padding is nobody's
    void same(const Guarded<float>& found, const Guarded<float>& expected, const char* when) {
        const int64_t at = mix_width(head_size_);
        check_.same(found.data(), expected.data(), head_size_, when + what_);
        check_.same(found.data() + at, expected.data() + at, 2, when + ("sums of " + what_));
    }

    void check_finish(const Guarded<float>& ours, const Guarded<float>& theirs, float sink) {
        const Guarded<float> found(head_size_), expected(head_size_);
        check_.kernels.attention.finish(ours.data(), sink, head_size_, found.data());
        kGenericKernels.attention.finish(theirs.data(), sink, head_size_, expected.data());
        check_.same(found.data(), expected.data(), head_size_, "finished, " + what_);
    }

    Check& check_;
    Shape shape_;
    int64_t head_size_;
    std::string what_;
};

}  // namespace

void check_attention(Check& check) {
    Random random(7);
    for (int64_t head_size : kHeadSizes)
        for (int64_t rows : kRowCounts)
            for (int64_t longest : {1, 70, 200})
                for (bool is_strange : {false, true})
                    AttentionCheck(check, {rows, head_size, longest, is_strange}).run(random);
    AttentionCheck(check, {9, 24, kChunkSize, false}).run(random);
}

}  // namespace expertly
