// What the checks share: memory that ends at a guard, numbers at random, a count of failures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels.h"

namespace expertly {

// `size` bytes that end, to the byte, where memory does: to touch what follows kills the process;
// what precedes them does so a page away at most
class GuardedBytes {
public:
    // throws std::bad_alloc
    explicit GuardedBytes(size_t size);
    ~GuardedBytes();
    GuardedBytes(const GuardedBytes&) = delete;
    GuardedBytes& operator=(const GuardedBytes&) = delete;

    uint8_t* begin() const { return begin_; }

private:
    uint8_t* pages_;
    uint8_t* begin_;
    size_t num_bytes_;
};

// NaN as floats, and no value that is expected as anything else
constexpr uint8_t kPoison = 0xFF;

template <class T>
class Guarded {
public:
    explicit Guarded(int64_t count)
        : bytes_(static_cast<size_t>(count) * sizeof(T)), count_(count) {
        uint8_t* at = bytes_.begin();
        for (size_t i = 0; i < static_cast<size_t>(count) * sizeof(T); ++i) at[i] = kPoison;
    }
    explicit Guarded(const std::vector<T>& values) : Guarded(static_cast<int64_t>(values.size())) {
        for (int64_t i = 0; i < count_; ++i) data()[i] = values[static_cast<size_t>(i)];
    }

    T* data() const { return reinterpret_cast<T*>(bytes_.begin()); }
    int64_t size() const { return count_; }

private:
    GuardedBytes bytes_;
    int64_t count_;
};

class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t bits();  // SplitMix64 (Steele, Lea, Flood 2014)
    int64_t below(int64_t limit) {
        return static_cast<int64_t>(bits() % static_cast<uint64_t>(limit));
    }
    double uniform(double from, double to);
    float normal();  // nearly: the sum of 12 uniform numbers
    std::vector<float> row(int64_t n);
    // as `row`, some of them zeros, infinities, NaN, subnormal or huge
    std::vector<float> strange_row(int64_t n);

private:
    uint64_t state_;
};

// equal to the bit, signs of zeros too; one NaN is as good as another
bool is_same(float a, float b);

// counts what was checked of a set of kernels, and prints a line for each failure
class Check {
public:
    explicit Check(const Kernels& under_test) : kernels(under_test) {}

    void that(bool is_so, const std::string& what);
    void same(const float* found, const float* expected, int64_t n, const std::string& what);
    template <class T>
    void equal(const T* found, const T* expected, int64_t n, const std::string& what) {
        bool is_equal = true;
        for (int64_t i = 0; i < n; ++i) is_equal &= found[i] == expected[i];
        that(is_equal, what);
    }

    const Kernels& kernels;
    int64_t checks = 0, failures = 0;
};

void check_tiles(Check& check);
void check_rows(Check& check);
void check_attention(Check& check);

// rows of a tensor as files hold them: codes at random, scales of a sensible size, or any bits
std::vector<uint8_t> random_blocks(Format format, int64_t rows, int64_t columns, bool has_any_bits,
                                   Random& random);

// the generic kernels, each time with one fault that the checks must find, and its name
std::vector<Kernels> faulty_kernels();
// the generic kernels, with one that reads past its row
Kernels overrunning_kernels();

}  // namespace expertly
