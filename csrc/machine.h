// Which kernels this processor and its system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace expertly {

// the best one first, generic last
std::vector<const Kernels*> offered_kernels();

// those of this name, the first for none; throws std::invalid_argument if there are none such
const Kernels& kernels_of(const std::string& name);

}  // namespace expertly
