// Weight matrices as Python holds them: a view of a buffer's bytes in kernel layout.
#pragma once

#include <memory>

#include "../buffer.h"
#include "arrays.h"

namespace expertly {

struct Weights {
    Matrix matrix;
    std::shared_ptr<Buffer> buffer;
};

}  // namespace expertly
