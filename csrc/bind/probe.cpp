#include "../ops/probe.h"

#include <cmath>

#include "../buffer.h"
#include "arrays.h"
#include "bind.h"

namespace expertly {

namespace {

constexpr size_t kLeastBytes = 1 << 20;

void check_seconds(double seconds) {
    require(std::isfinite(seconds) && seconds >= 0 && seconds <= 60, "a probe takes 0 to 60 s");
}

double read(Runtime& runtime, const Buffer& buffer, double seconds) {
    check_seconds(seconds);
    require(buffer.size() >= kLeastBytes && buffer.size() % 4096 == 0,
            "a buffer to read is whole pages, 1 MiB or more");
    const nb::gil_scoped_release release;
    return read_bandwidth(runtime, buffer.data(), static_cast<int64_t>(buffer.size()), seconds);
}

template <double (*Peak)(Runtime&, double)>
double measure(Runtime& runtime, double seconds) {
    check_seconds(seconds);
    const nb::gil_scoped_release release;
    return Peak(runtime, seconds);
}

}  // namespace

void bind_probe(nb::module_& module) {
    module.def("read_bandwidth", &read, nb::arg("runtime"), nb::arg("buffer"), nb::arg("seconds"));
    module.def("int8_peak", &measure<&int8_peak>, nb::arg("runtime"), nb::arg("seconds"));
    module.def("bf16_peak", &measure<&bf16_peak>, nb::arg("runtime"), nb::arg("seconds"));
}

}  // namespace expertly
