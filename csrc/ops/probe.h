// What the machine can do at most right now, on the threads of a runtime.
//
// Each repeats a short pass for about `seconds`, at least three times, and returns the best
// pass's rate: what other programs take away meanwhile counts against no engine.
#pragma once

#include <cstdint>

#include "runtime.h"

namespace expertly {

// bytes a second; the buffer should be much larger than the caches, and written before
double read_bandwidth(Runtime& runtime, const uint8_t* data, int64_t num_bytes, double seconds);

// operations a second from registers alone, a multiply-add counted as two
double int8_peak(Runtime& runtime, double seconds);
double bf16_peak(Runtime& runtime, double seconds);

}  // namespace expertly
