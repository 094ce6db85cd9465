#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

namespace expertly {

namespace {

constexpr int kLeastPasses = 3;
constexpr int64_t kReadItem = 1 << 20;
constexpr int64_t kItemsAThread = 16;
constexpr double kItemSeconds = 1e-4;

double now() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since).count();
}

// the shortest pass in seconds
template <class Pass>
double best_of(double seconds, const Pass& pass) {
    const double until = now() + seconds;
    double best = 0;
    for (int i = 0; i < kLeastPasses || now() < until; ++i) {
        const double began = now();
        pass();
        const double took = now() - began;
        best = i == 0 ? took : std::min(best, took);
    }
    return best;
}

// a word of each line, as memory gives whole lines; volatile: loads as they are written here
uint32_t read_lines(const uint8_t* data, int64_t num_bytes) {
    constexpr int64_t line = 64, round = 4 * line;  // fewer a round is slower
    uint32_t all = 0;
    for (int64_t at = 0; at + round <= num_bytes; at += round)
        for (int64_t i = 0; i < round; i += line)
            all |= *reinterpret_cast<const volatile uint32_t*>(data + at + i);
    return all;
}

using Rounds = uint32_t (*)(int64_t rounds);

// so many rounds that an item is far longer than its handing out
int64_t rounds_an_item(Rounds work) {
    for (int64_t rounds = 64;; rounds *= 2) {
        const double began = now();
        work(rounds);
        if (now() - began > kItemSeconds) return rounds;
    }
}

double peak(Runtime& runtime, Rounds work, int ops, double seconds) {
    std::atomic<uint32_t> all{0};
    const int64_t items = kItemsAThread * runtime.pool.threads(), rounds = rounds_an_item(work);
    const double best = best_of(seconds, [&] {
        runtime.pool.run(items, [&](int64_t) { all |= work(rounds); });
    });
    return static_cast<double>(items * rounds) * ops / best;
}

}  // namespace

double read_bandwidth(Runtime& runtime, const uint8_t* data, int64_t num_bytes, double seconds) {
    std::atomic<uint32_t> all{0};
    const int64_t items = (num_bytes + kReadItem - 1) / kReadItem;
    const double best = best_of(seconds, [&] {
        runtime.pool.run(items, [&](int64_t item) {
            const int64_t from = item * kReadItem;
            all |= read_lines(data + from, std::min(kReadItem, num_bytes - from));
        });
    });
    return static_cast<double>(num_bytes) / best;
}

double int8_peak(Runtime& runtime, double seconds) {
    const Probes& probes = runtime.kernels.probes;
    return peak(runtime, probes.int8, probes.int8_ops, seconds);
}

double bf16_peak(Runtime& runtime, double seconds) {
    const Probes& probes = runtime.kernels.probes;
    return peak(runtime, probes.bf16, probes.bf16_ops, seconds);
}

}  // namespace expertly
