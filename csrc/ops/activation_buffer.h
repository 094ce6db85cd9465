// Scratch that holds rows of activations in the forms that some formats want.
#pragma once

#include "../activations.h"
#include "../buffer.h"
#include "../kernels.h"

namespace expertly {

// a set of `Wanted`
struct Forms {
    bool floats = false, bf16 = false, groups = false;

    void add(Format format) {
        const Wanted wanted = wanted_by(format);
        floats |= wanted == Wanted::floats;
        bf16 |= wanted == Wanted::bf16;
        groups |= wanted == Wanted::groups;
    }
};

class ActivationBuffer {
public:
    // room for `rows` rows; the float form, if wanted, has its own room unless `x` is given
    void resize(int64_t rows, int64_t columns, Forms forms, const float* x, int64_t x_stride);

    // row t of the wanted forms from its floats (which may be the float form's own place)
    void fill(const Kernels& kernels, int64_t t, const float* x);
    // columns 32 * group onwards of row t, `n` of them: 32, or fewer at the end of a row
    void fill_group(const Kernels& kernels, int64_t t, int64_t group, const float* x, int64_t n);

    const Activations& view() const { return view_; }
    float* floats(int64_t t) { return floats_ + t * view_.x_stride; }

private:
    GroupPlaces places(int64_t t) const;

    Activations view_{};
    Forms forms_{};
    float* floats_ = nullptr;
    uint16_t* bf16_ = nullptr;
    GroupPlaces groups_{};
    Scratch own_floats_, own_bf16_, own_groups_;
};

}  // namespace expertly
