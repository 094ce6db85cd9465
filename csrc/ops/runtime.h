// What every operation runs on: a pool of threads and the kernels of one instruction set.
#pragma once

#include "../kernels.h"
#include "../pool.h"

namespace expertly {

struct Runtime {
    Pool pool;
    const Kernels& kernels;

    Runtime(int threads, const Kernels& chosen) : pool(threads), kernels(chosen) {}
};

}  // namespace expertly
