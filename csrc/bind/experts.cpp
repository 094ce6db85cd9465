// A bank of experts by itself, for callers who choose: rows and choices in, sums out.
#include <algorithm>

#include "bind.h"
#include "layer.h"

namespace expertly {

namespace {

class Experts {
public:
    Experts(Runtime& runtime, const HeldBank& held)
        : runtime_(runtime), held_(held), bank_(held_.bank()) {}
    Experts(const Experts&) = delete;

    // y [T][columns] = sum over slots k of weights[t][k] * expert ids[t][k] of x[t]
    NewRows run(const Rows& x, const Table& ids, const Rows& weights) {
        const size_t T = x.shape(0), K = ids.shape(1);
        const int64_t columns = bank_.experts.front().gate.layout.columns;
        const int64_t num_experts = static_cast<int64_t>(bank_.experts.size());
        require(static_cast<int64_t>(x.shape(1)) == columns, "rows of another width");
        require(ids.shape(0) == T && weights.shape(0) == T && weights.shape(1) == K,
                "a choice and a weight for each row");
        require(std::all_of(ids.data(), ids.data() + T * K,
                            [=](int32_t id) { return 0 <= id && id < num_experts; }),
                "no such expert");
        NewRows y = new_rows(T, x.shape(1));
        std::fill(y.data(), y.data() + T * x.shape(1), 0.0f);
        if (T * K == 0) return y;
        work_.bank = &bank_;
        work_.choice = {ids.data(), weights.data(), static_cast<int64_t>(K)};
        const nb::gil_scoped_release release;
        feed_forward(runtime_, &work_, 1, x.data(), static_cast<int64_t>(T), y.data(), columns);
        return y;
    }

private:
    Runtime& runtime_;
    HeldBank held_;
    Bank bank_;
    BankWork work_;
};

}  // namespace

void bind_experts(nb::module_& module) {
    nb::class_<Experts>(module, "Experts")
        .def(nb::init<Runtime&, const HeldBank&>(), nb::arg("runtime"), nb::arg("bank"),
             nb::keep_alive<1, 2>())
        .def("__call__", &Experts::run, nb::arg("x"), nb::arg("ids"), nb::arg("weights"));
}

}  // namespace expertly
