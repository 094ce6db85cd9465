// Bytes that will be read soon: threads that wait for others fetch them meanwhile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace expertly {

// Whoever has work says what comes for each thread; each fetches its own, as caches are a core's. A
// hint that is out of date, or of two who speak at once, costs a fetch, no more: it touches nothing.
class Foresight {
public:
    explicit Foresight(int threads) : lists_(static_cast<size_t>(threads)) {}

    void forget() {
        for (List& list : lists_) {
            list.count.store(0, std::memory_order_relaxed);
            list.left.store(kMostBytes, std::memory_order_relaxed);
            list.version.fetch_add(1, std::memory_order_release);
        }
    }

    // in the order in which a thread will read them; false once no cache would keep more
    bool add(int thread, const uint8_t* data, int64_t num_bytes) {
        List& list = lists_[static_cast<size_t>(thread)];
        const int64_t count = list.count.load(std::memory_order_relaxed);
        const int64_t left = list.left.load(std::memory_order_relaxed);
        if (count == kMostRanges || left <= 0) return false;
        const int64_t taken = std::min(num_bytes, left);
        list.ranges[count].begin.store(data, std::memory_order_relaxed);
        list.ranges[count].end.store(data + taken, std::memory_order_relaxed);
        list.count.store(count + 1, std::memory_order_release);
        list.left.store(left - taken, std::memory_order_relaxed);
        return true;
    }

    // a few lines of it into the second-level cache; false if nothing is left
    bool fetch(int thread) {
        List& list = lists_[static_cast<size_t>(thread)];
        const uint32_t version = list.version.load(std::memory_order_acquire);
        if (version != list.seen) list.seen = version, list.range = 0, list.at = nullptr;
        for (; list.range < list.count.load(std::memory_order_acquire); ++list.range) {
            const Range& range = list.ranges[list.range];
            const uint8_t* at = list.at ? list.at : range.begin.load(std::memory_order_relaxed);
            if (at < range.end.load(std::memory_order_relaxed)) {
                for (int64_t i = 0; i < kPiece; i += 64) __builtin_prefetch(at + i, 0, 2);
                list.at = at + kPiece;
                return true;
            }
            list.at = nullptr;
        }
        return false;
    }

private:
    static constexpr int64_t kPiece = 1024;
    static constexpr int64_t kMostBytes = 512 << 10;  // half a second-level cache
    static constexpr int64_t kMostRanges = 32;

    struct Range {
        std::atomic<const uint8_t*> begin{nullptr}, end{nullptr};
    };

    struct List {
        alignas(64) Range ranges[kMostRanges];
        std::atomic<int64_t> count{0};
        std::atomic<uint32_t> version{0};
        std::atomic<int64_t> left{kMostBytes};
        // where the thread is that fetches
        alignas(64) uint32_t seen = 0;
        int64_t range = 0;
        const uint8_t* at = nullptr;
    };

    std::vector<List> lists_;  // by thread
};

}  // namespace expertly
