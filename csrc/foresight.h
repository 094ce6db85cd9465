// Bytes that will be read soon: threads that wait for others fetch them meanwhile.
#pragma once

#include <atomic>
#include <cstdint>

namespace expertly {

// One thread says what comes; any may fetch. A hint that is out of date costs a fetch, no more:
// fetching touches nothing.
class Foresight {
public:
    void forget() {
        count_.store(0, std::memory_order_relaxed);
        next_.store(0, std::memory_order_relaxed);
    }

    // in the order in which they will be read; what no cache would keep is left out
    void add(const uint8_t* data, int64_t num_bytes) {
        int64_t count = count_.load(std::memory_order_relaxed);
        for (int64_t at = 0; at < num_bytes && count < kMost; at += kPiece)
            pieces_[count++].store(data + at, std::memory_order_relaxed);
        count_.store(count, std::memory_order_release);
    }

    // a few lines of it into the second-level cache; false if nothing is left
    bool fetch() {
        if (next_.load(std::memory_order_relaxed) >= count_.load(std::memory_order_acquire))
            return false;
        const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= kMost) return false;
        const uint8_t* piece = pieces_[index].load(std::memory_order_relaxed);
        for (int64_t at = 0; at < kPiece; at += 64) __builtin_prefetch(piece + at, 0, 2);
        return true;
    }

private:
    static constexpr int64_t kPiece = 1024;
    static constexpr int64_t kMost = 512;  // half a second-level cache

    std::atomic<const uint8_t*> pieces_[kMost] = {};
    std::atomic<int64_t> count_{0}, next_{0};
};

}  // namespace expertly
