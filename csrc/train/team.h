// Threads for training, which takes turns with torch on the same cores: torch's own where its
// OpenMP can be called, as two sets of threads that wait for work would be in each other's way.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "../buffer.h"
#include "../pool.h"

namespace expertly {

// OpenMP's entry as compilers call it: `work(data)` on a number of threads
using Fork = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

class Team {
public:
    // threads of its own if there is no `fork`
    Team(int threads, Fork fork) : threads_(threads), fork_(fork), pool_(fork ? 1 : threads),
                                   scratch_(static_cast<size_t>(threads)) {}

    int threads() const { return threads_; }
    // of a member, for the length of an item
    Scratch& scratch(int member) { return scratch_[static_cast<size_t>(member)]; }

    // work(member, item) for every item in [0, items), handed out one by one; what an item throws
    // ends the job and is thrown here
    template <class Work>
    void run(int64_t items, const Work& work) {
        std::atomic<int64_t> next{0};
        std::atomic<int> members{0};
        std::exception_ptr error;
        std::mutex mutex;
        const auto take = [&] {
            const PlainFloats floats;
            const int member = members.fetch_add(1);
            try {
                for (int64_t item; (item = next.fetch_add(1)) < items;) work(member, item);
            } catch (...) {
                next.store(items);
                const std::lock_guard<std::mutex> lock(mutex);
                error = std::current_exception();
            }
        };
        share(items, take);
        if (error) std::rethrow_exception(error);
    }

private:
    // take() on each thread
    template <class Take>
    void share(int64_t items, const Take& take) {
        if (threads_ == 1 || items <= 1) return take();
        if (!fork_) return pool_.run(threads_, [&](int64_t) { take(); });
        fork_([](void* data) { (*static_cast<const Take*>(data))(); },
              const_cast<void*>(static_cast<const void*>(&take)),
              static_cast<unsigned>(threads_), 0);
    }

    int threads_;
    Fork fork_;
    Pool pool_;
    std::vector<Scratch> scratch_;
};

}  // namespace expertly
