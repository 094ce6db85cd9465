#include "isa.h"

#include "../kernels/table.h"

namespace expertly {
extern const Kernels kAvx2Kernels = make_kernels<Avx2>("avx2");
}
