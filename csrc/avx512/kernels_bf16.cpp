#include "bf16.h"

#include "../kernels/table.h"

namespace expertly {
extern const Kernels kAvx512Bf16Kernels = make_kernels<Avx512Bf16>("avx512-bf16");
}
