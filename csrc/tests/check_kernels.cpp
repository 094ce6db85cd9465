// Holds every kernel set that this processor offers against the generic one and the definition.
//
//     check_kernels                all sets; exit code 1 if anything differs
//     check_kernels faulty         instead sets with a fault each, all of which must fail
//     check_kernels overrunning    one that reads past its row and must be killed
//
// A line for each failure, a line for each set.

#include <cstdio>
#include <cstring>

#include "../machine.h"
#include "check.h"

namespace {

using namespace expertly;

// whether none of them fails
bool pass(const std::vector<Kernels>& sets) {
    int64_t failures = 0;
    for (const Kernels& kernels : sets) {
        Check check(kernels);
        check_rows(check);
        check_tiles(check);
        check_attention(check);
        std::printf("%s: %lld checks, %lld failures\n", kernels.name,
                    static_cast<long long>(check.checks), static_cast<long long>(check.failures));
        failures += check.failures;
    }
    return failures == 0;
}

std::vector<Kernels> sets_of(const char* argument) {
    if (std::strcmp(argument, "faulty") == 0) return faulty_kernels();
    if (std::strcmp(argument, "overrunning") == 0) return {overrunning_kernels()};
    std::vector<Kernels> sets;
    for (const Kernels* kernels : offered_kernels()) sets.push_back(*kernels);
    return sets;
}

}  // namespace

int main(int count, char** arguments) {
    // what was found is not lost when a guard kills the process
    std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
    return pass(sets_of(count > 1 ? arguments[1] : "")) ? 0 : 1;
}
