#include "isa.h"

#include "../kernels/table.h"

namespace expertly {
extern const Kernels kGenericKernels = make_kernels<Generic>("generic");
}
