// A pool of threads for work that is split into items.
//
// Each thread has a run of items, as neighbours often lie side by side in memory and processors read
// ahead; whoever is through takes from the others', one by one, so that uneven items keep all
// threads busy. Work that asks for it also learns which item its thread probably has next. Between
// jobs a worker spins for a moment, as the next job of a decode step comes within microseconds, and
// then sleeps. One job at a time, callers wait for their turn; the caller takes part in it. Whoever
// waits fetches what it will read in the next jobs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include "foresight.h"
#include "plain_floats.h"

namespace expertly {

// whether this is still the process that made it, and no fork of that, which has no threads of it
class Birthplace {
public:
    Birthplace();
    ~Birthplace();
    Birthplace(const Birthplace&) = delete;
    Birthplace& operator=(const Birthplace&) = delete;

    bool is_here() const { return *mark_ != 0; }

private:
    volatile uint8_t* mark_;  // memory that a fork finds zeroed
};

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    Foresight& foresight() { return foresight_; }
    int threads() const { return static_cast<int>(crew_->workers.size()) + 1; }
    // the first of a thread's run of items, which ends where the next thread's begins
    int64_t first_item(int64_t items, int thread) const { return items * thread / threads(); }

    // calls work(item), or work(item, next) with next < 0 where that is not known, for every item
    // in [0, items); returns when all are done. What an item throws ends the job and is thrown
    // here; items do not run jobs of the same pool
    template <class Work>
    void run(int64_t items, const Work& work) {
        if (items <= 0) return;
        const PlainFloats floats;
        if (items > 1 && threads() > 1 && birthplace_.is_here())
            return start(items, &call<Work>, &work);
        for (int64_t i = 0; i < items; ++i) call<Work>(&work, i, i + 1 < items ? i + 1 : -1);
    }

private:
    using Call = void (*)(const void* work, int64_t item, int64_t next);

    // a thread's run of the items
    struct alignas(64) Share {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    // what a fork cannot take down
    struct Crew {
        std::vector<std::thread> workers;
        std::mutex mutex;
        std::condition_variable wake;
        std::exception_ptr error;
    };

    template <class Work>
    static void call(const void* work, int64_t item, int64_t next) {
        const Work& function = *static_cast<const Work*>(work);
        if constexpr (std::is_invocable_v<const Work&, int64_t, int64_t>) function(item, next);
        else function(item);
    }

    void close();
    void start(int64_t items, Call call, const void* work);
    void take_items(Share& share);
    void try_items(int thread);
    void serve(int thread);
    bool wait_for_job(int thread, uint64_t seen);
    void wait_a_moment(int thread);

    Foresight foresight_;
    Birthplace birthplace_;
    std::unique_ptr<Crew> crew_ = std::make_unique<Crew>();
    std::mutex turn_;
    Call call_ = nullptr;
    const void* work_ = nullptr;
    std::vector<Share> shares_;  // by thread
    alignas(64) std::atomic<uint64_t> job_{0};
    alignas(64) std::atomic<int> busy_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> is_closing_{false};
};

}  // namespace expertly
