#include "pool.h"

#include <sys/mman.h>

#include <cassert>
#include <chrono>
#include <new>
#include <utility>

namespace expertly {

namespace {

// long enough for the gaps inside a decode step, short enough to leave an idle machine alone
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr int kPausesAClock = 64;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

}  // namespace

Birthplace::Birthplace() {
    void* at = mmap(nullptr, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    mark_ = static_cast<volatile uint8_t*>(at);
    *mark_ = 1;
#ifdef MADV_WIPEONFORK
    madvise(at, 1, MADV_WIPEONFORK);
#endif
}

Birthplace::~Birthplace() { munmap(const_cast<uint8_t*>(mark_), 1); }

Pool::Pool(int threads) : foresight_(threads), shares_(static_cast<size_t>(threads)) {
    assert(threads > 0);
    try {
        for (int i = 1; i < threads; ++i) crew_->workers.emplace_back([this, i] { serve(i); });
    } catch (...) {
        // the system refuses more of them: those that began end before the error goes on
        close();
        throw;
    }
}

Pool::~Pool() {
    if (birthplace_.is_here()) close();
    // neither threads that are not there nor what they waited for can be waited for
    else static_cast<void>(crew_.release());
}

void Pool::close() {
    {
        const std::lock_guard<std::mutex> lock(crew_->mutex);
        is_closing_ = true;
        job_.fetch_add(1);
    }
    crew_->wake.notify_all();
    for (auto& worker : crew_->workers) worker.join();
}

void Pool::start(int64_t items, Call call, const void* work) {
    const std::lock_guard<std::mutex> turn(turn_);
    call_ = call;
    work_ = work;
    for (int i = 0; i < threads(); ++i) {
        shares_[i].next.store(first_item(items, i), std::memory_order_relaxed);
        shares_[i].end = first_item(items, i + 1);
    }
    busy_.store(threads() - 1, std::memory_order_relaxed);
    job_.fetch_add(1);
    if (sleeping_.load() > 0) {
        const std::lock_guard<std::mutex> lock(crew_->mutex);
        crew_->wake.notify_all();
    }
    try_items(0);
    // the system may have given a worker's core to somebody else: let it have this one
    for (int i = 0; busy_.load(std::memory_order_acquire) > 0; ++i) {
        if (i < 20000) wait_a_moment(0);
        else std::this_thread::yield();
    }
    if (crew_->error) std::rethrow_exception(std::exchange(crew_->error, nullptr));
}

// all threads end before the job does, whatever its items throw
void Pool::try_items(int thread) {
    try {
        for (int i = 0; i < threads(); ++i) take_items(shares_[(thread + i) % threads()]);
    } catch (...) {
        for (Share& share : shares_) share.next.store(share.end, std::memory_order_relaxed);
        const std::lock_guard<std::mutex> lock(crew_->mutex);
        if (!crew_->error) crew_->error = std::current_exception();
    }
}

void Pool::take_items(Share& share) {
    const auto take = [&share] { return share.next.fetch_add(1, std::memory_order_relaxed); };
    for (int64_t item = take(); item < share.end; item = take())
        call_(work_, item, item + 1 < share.end ? item + 1 : -1);
}

void Pool::wait_a_moment(int thread) {
    if (!foresight_.fetch(thread)) pause();
}

bool Pool::wait_for_job(int thread, uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPausesAClock; ++i) {
            if (job_.load() != seen) return !is_closing_;
            wait_a_moment(thread);
        }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(crew_->mutex);
    sleeping_.fetch_add(1);
    crew_->wake.wait(lock, [&] { return job_.load() != seen; });
    sleeping_.fetch_sub(1);
    return !is_closing_;
}

void Pool::serve(int thread) {
    const PlainFloats floats;
    for (uint64_t seen = 0; wait_for_job(thread, seen);) {
        seen = job_.load();
        try_items(thread);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace expertly
