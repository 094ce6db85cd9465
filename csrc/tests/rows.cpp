// Rows of floats: every function of a set gives the generic one's bits, and keeps to its rows.

#include <cmath>
#include <limits>

#include "check.h"

namespace expertly {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLongest = 257;

class RowCheck {
public:
    RowCheck(Check& check, int64_t n, bool is_strange, uint64_t seed)
        : check_(check), ours_(check.kernels), n_(n), random_(seed),
          what_(std::to_string(n) + (is_strange ? " strange numbers" : " numbers")),
          a_(row(is_strange)), b_(row(is_strange)), c_(row(is_strange)) {}

    void run() {
        check_dot();
        check_scale_row(nullptr);
        check_scale_row(c_.data());
        check_glu({GluRule::silu, 1.0f, kInfinity, 0.0f});
        check_glu({GluRule::silu, 1.702f, 2.0f, 1.0f});
        check_add_scaled();
        check_halves("to_bf16", n_ + n_ % 2, ours_.to_bf16, kGenericKernels.to_bf16);
        check_halves("to_half", n_, ours_.attention.to_half, kGenericKernels.attention.to_half);
        check_quantise_row();
        check_rotate();
    }

private:
    std::vector<float> row(bool is_strange) {
        return is_strange ? random_.strange_row(n_) : random_.row(n_);
    }
    std::string name(const char* function) const { return std::string(function) + " of " + what_; }

    void same(const char* function, const Guarded<float>& found, const Guarded<float>& expected) {
        check_.same(found.data(), expected.data(), found.size(), name(function));
    }

    void check_dot() {
        const float found = ours_.dot(a_.data(), b_.data(), n_);
        const float expected = kGenericKernels.dot(a_.data(), b_.data(), n_);
        check_.same(&found, &expected, 1, name("dot"));
    }

    void check_scale_row(const float* bias) {
        const Guarded<float> found(n_), expected(n_);
        ours_.scale_row(a_.data(), 0.25f, 1.5f, b_.data(), bias, n_, found.data());
        kGenericKernels.scale_row(a_.data(), 0.25f, 1.5f, b_.data(), bias, n_, expected.data());
        same("scale_row", found, expected);
        const Guarded<float> place(values(a_));
        ours_.scale_row(place.data(), 0.25f, 1.5f, b_.data(), bias, n_, place.data());
        same("scale_row in place", place, expected);
    }

    void check_glu(const GluRule& rule) {
        const Guarded<float> found(n_), expected(n_);
        ours_.silu_glu(a_.data(), b_.data(), rule, n_, found.data());
        kGenericKernels.silu_glu(a_.data(), b_.data(), rule, n_, expected.data());
        same("silu_glu", found, expected);
    }

    void check_add_scaled() {
        const Guarded<float> found(values(b_)), expected(values(b_));
        ours_.add_scaled(a_.data(), 0.3f, n_, found.data());
        kGenericKernels.add_scaled(a_.data(), 0.3f, n_, expected.data());
        same("add_scaled", found, expected);
    }

    // a NaN's further bits are the processor's own
    static bool is_no_number(uint16_t bits, bool is_bf16) {
        return (bits & 0x7FFF) > (is_bf16 ? 0x7F80 : 0x7C00);
    }

    template <class To>
    void check_halves(const char* function, int64_t size, To to, To expected_to) {
        const Guarded<uint16_t> found(size), expected(size);
        to(a_.data(), n_, found.data());
        expected_to(a_.data(), n_, expected.data());
        const bool is_bf16 = to == ours_.to_bf16;
        for (int64_t i = 0; i < size; ++i) {
            uint16_t& ours = found.data()[i];
            const uint16_t theirs = expected.data()[i];
            if (is_no_number(ours, is_bf16) && is_no_number(theirs, is_bf16)) ours = theirs;
        }
        check_.equal(found.data(), expected.data(), size, name(function));
    }

    // row 1 of a panel of 3, whose other rows are to stay as they are
    struct Groups {
        explicit Groups(int64_t n) : groups(n * 3 * kRecordBytes), halves(n * 3 * kHalvesBytes) {}
        GroupPlaces places() const { return places_in(groups.data(), halves.data(), 3, 1); }
        Guarded<uint8_t> groups, halves;
    };

    void check_quantise_row() {
        const Groups found((n_ + kGroup - 1) / kGroup), expected((n_ + kGroup - 1) / kGroup);
        ours_.quantise_row(a_.data(), n_, found.places());
        kGenericKernels.quantise_row(a_.data(), n_, expected.places());
        check_.equal(found.groups.data(), expected.groups.data(), found.groups.size(),
                     name("quantise_row"));
        check_.equal(found.halves.data(), expected.halves.data(), found.halves.size(),
                     name("quantise_row, its halves,"));
    }

    void check_rotate() {
        const int64_t half = n_ / 2;
        const Guarded<float> found(pairs(half)), expected(pairs(half));
        const Guarded<float> cos(some(b_, half)), sin(some(c_, half));
        ours_.attention.rotate(cos.data(), sin.data(), half, found.data());
        kGenericKernels.attention.rotate(cos.data(), sin.data(), half, expected.data());
        same("rotate", found, expected);
    }

    std::vector<float> pairs(int64_t half) const { return some(a_, 2 * half); }
    static std::vector<float> some(const Guarded<float>& from, int64_t n) {
        return {from.data(), from.data() + n};
    }
    static std::vector<float> values(const Guarded<float>& from) { return some(from, from.size()); }

    Check& check_;
    const Kernels& ours_;
    int64_t n_;
    Random random_;
    std::string what_;
    Guarded<float> a_, b_, c_;
};

// that they run at all: what they return depends on the vectors' width
void check_probes(Check& check) {
    const Probes& probes = check.kernels.probes;
    check.that(probes.int8(2) != 0 && probes.int8_ops > 0, "the probe of int8");
    check.that(probes.bf16(2) != 0 && probes.bf16_ops > 0, "the probe of bfloat16");
}

}  // namespace

void check_rows(Check& check) {
    check_probes(check);
    for (int64_t n = 0; n <= kLongest; n += n < 70 ? 1 : 17)
        for (uint64_t seed = 0; seed < 4; ++seed)
            RowCheck(check, n, seed % 2 == 1, seed * 1000 + static_cast<uint64_t>(n)).run();
}

}  // namespace expertly
