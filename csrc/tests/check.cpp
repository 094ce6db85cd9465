#include "check.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <new>

#include "../half.h"

namespace expertly {

GuardedBytes::GuardedBytes(size_t size) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inside = (size + page - 1) / page * page;
    num_bytes_ = inside + 2 * page;
    void* at = mmap(nullptr, num_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    pages_ = static_cast<uint8_t*>(at);
    begin_ = pages_ + page + inside - size;
    if (inside && mprotect(pages_ + page, inside, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
}

GuardedBytes::~GuardedBytes() { munmap(pages_, num_bytes_); }

uint64_t Random::bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

double Random::uniform(double from, double to) {
    return from + (to - from) * static_cast<double>(bits() >> 11) * 0x1p-53;
}

float Random::normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform(0.0, 1.0);
    return static_cast<float>(sum);
}

std::vector<float> Random::row(int64_t n) {
    std::vector<float> row(static_cast<size_t>(n));
    for (float& x : row) x = normal();
    return row;
}

std::vector<float> Random::strange_row(int64_t n) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const float strange[] = {0.0f,  -0.0f,  infinity, -infinity, 1e-39f, -1e-44f, 3e38f,
                             -3e38f, 65520.0f, 88.5f,  -88.5f,    -1e5f,  std::nanf("")};
    std::vector<float> values = row(n);
    for (float& x : values)
        if (below(3) == 0) x = strange[below(sizeof(strange) / sizeof(strange[0]))];
    return values;
}

bool is_same(float a, float b) {
    return (std::isnan(a) && std::isnan(b)) || bits_of_float(a) == bits_of_float(b);
}

void Check::that(bool is_so, const std::string& what) {
    ++checks;
    if (is_so) return;
    ++failures;
    std::printf("%s: %s\n", kernels.name, what.c_str());
}

void Check::same(const float* found, const float* expected, int64_t n, const std::string& what) {
    int64_t at = 0;
    while (at < n && is_same(found[at], expected[at])) ++at;
    if (at == n) return that(true, what);
    char text[96];
    std::snprintf(text, sizeof(text), ": number %lld is %.9g, not %.9g",
                  static_cast<long long>(at), static_cast<double>(found[at]),
                  static_cast<double>(expected[at]));
    that(false, what + text);
}

}  // namespace expertly
