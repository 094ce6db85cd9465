#include "pool.h"

#include <sys/mman.h>

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

Pool::Pool(int threads) {
    try {
        for (int i = 1; i < threads; ++i) crew_->workers.emplace_back([this] { serve(); });
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
    items_ = items;
    call_ = call;
    work_ = work;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(threads() - 1, std::memory_order_relaxed);
    job_.fetch_add(1);
    if (sleeping_.load() > 0) {
        const std::lock_guard<std::mutex> lock(crew_->mutex);
        crew_->wake.notify_all();
    }
    try_items();
    // the system may have given a worker's core to somebody else: let it have this one
    for (int i = 0; busy_.load(std::memory_order_acquire) > 0; ++i) {
        if (i < 20000) wait_a_moment();
        else std::this_thread::yield();
    }
    if (crew_->error) std::rethrow_exception(std::exchange(crew_->error, nullptr));
}

// all threads end before the job does, whatever its items throw
void Pool::try_items() {
    try {
        take_items();
    } catch (...) {
        next_.store(items_, std::memory_order_relaxed);
        const std::lock_guard<std::mutex> lock(crew_->mutex);
        if (!crew_->error) crew_->error = std::current_exception();
    }
}

void Pool::take_items() {
    const auto take = [this] { return next_.fetch_add(1, std::memory_order_relaxed); };
    // near the end nobody takes an item that another thread could begin at once
    const int64_t early = items_ - 2 * threads();
    for (int64_t item = take(); item < items_;) {
        const int64_t next = item < early ? take() : -1;
        call_(work_, item, next < items_ ? next : -1);
        item = next < 0 ? take() : next;
    }
}

void Pool::wait_a_moment() {
    if (!foresight_.fetch()) pause();
}

bool Pool::wait_for_job(uint64_t seen) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPausesAClock; ++i) {
            if (job_.load() != seen) return !is_closing_;
            wait_a_moment();
        }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(crew_->mutex);
    sleeping_.fetch_add(1);
    crew_->wake.wait(lock, [&] { return job_.load() != seen; });
    sleeping_.fetch_sub(1);
    return !is_closing_;
}

void Pool::serve() {
    const PlainFloats floats;
    for (uint64_t seen = 0; wait_for_job(seen);) {
        seen = job_.load();
        try_items();
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace expertly
