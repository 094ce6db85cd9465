// Floats as IEEE 754 has them, whatever the caller's thread was told to do with tiny ones.
#pragma once

#include <cstdint>

namespace expertly {

// While it lives, numbers below 2^-126 are what they are. A caller may have had them taken for 0
// (torch.set_flush_denormal): his thread and others would then give different results.
class PlainFloats {
public:
    PlainFloats() : was_(mode()) {
        if (was_ & kTinyIsZero) set_mode(was_ & ~kTinyIsZero);
    }
    ~PlainFloats() {
        if (was_ & kTinyIsZero) set_mode(was_);
    }
    PlainFloats(const PlainFloats&) = delete;
    PlainFloats& operator=(const PlainFloats&) = delete;

private:
#if defined(__x86_64__)
    static constexpr uint64_t kTinyIsZero = 0x8040;  // results, and operands
    static uint64_t mode() { return __builtin_ia32_stmxcsr(); }
    static void set_mode(uint64_t mode) { __builtin_ia32_ldmxcsr(static_cast<uint32_t>(mode)); }
#elif defined(__aarch64__)
    static constexpr uint64_t kTinyIsZero = uint64_t{1} << 24;
    static uint64_t mode() {
        uint64_t mode;
        __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void set_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
    static constexpr uint64_t kTinyIsZero = 0;
    static uint64_t mode() { return 0; }
    static void set_mode(uint64_t) {}
#endif

    uint64_t was_;
};

}  // namespace expertly
