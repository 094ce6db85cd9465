// Which kernels this processor and its system can run.
#pragma once

#include <vector>

#include "kernels.h"

namespace expertly {

// the best one first, generic last
std::vector<const Kernels*> offered_kernels();

}  // namespace expertly
