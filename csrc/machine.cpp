#include "machine.h"

#include <stdexcept>

#ifdef EXPERTLY_ARM
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#ifdef EXPERTLY_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace expertly {

#ifdef EXPERTLY_X86
namespace {

// asks the system for the tile registers, which it gives to processes that want them: Linux,
// Documentation/arch/x86/xstate.rst; whether processor and system have them
bool take_tiles() {
    unsigned a, b, c, d;
    constexpr unsigned wanted = bit_AMX_TILE | bit_AMX_BF16;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & wanted) != wanted) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace
#endif

std::vector<const Kernels*> offered_kernels() {
    std::vector<const Kernels*> found;
#ifdef EXPERTLY_X86
    // these ask the system too: without its saving of the wide registers they answer no
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c");
    const bool has_avx512 = __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vnni");
    if (has_avx2 && has_avx512) {
        if (__builtin_cpu_supports("avx512bf16")) {
            static const Kernels amx = amx_over(kAvx512Bf16Kernels);
            if (take_tiles()) found.push_back(&amx);
            found.push_back(&kAvx512Bf16Kernels);
        }
        found.push_back(&kAvx512Kernels);
    }
    if (has_avx2) found.push_back(&kAvx2Kernels);
#endif
#ifdef EXPERTLY_ARM
    const auto all = [](unsigned long offered, unsigned long wanted) {
        return (offered & wanted) == wanted;
    };
    const bool has_dot = all(getauxval(AT_HWCAP), HWCAP_ASIMD | HWCAP_ASIMDDP);
    const bool has_i8mm = all(getauxval(AT_HWCAP2), HWCAP2_I8MM | HWCAP2_BF16);
    if (has_dot && has_i8mm) found.push_back(&kNeonI8mmKernels);
    if (has_dot) found.push_back(&kNeonKernels);
#endif
    found.push_back(&kGenericKernels);
    return found;
}

const Kernels& kernels_of(const std::string& name) {
    const auto offered = offered_kernels();
    if (name.empty()) return *offered.front();
    for (const Kernels* kernels : offered)
        if (name == kernels->name) return *kernels;
    throw std::invalid_argument("this processor has no kernels " + name);
}

}  // namespace expertly
