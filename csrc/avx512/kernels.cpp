#include "isa.h"

#include "../kernels/table.h"

namespace expertly {
extern const Kernels kAvx512Kernels = make_kernels<Avx512>("avx512");
}
