// Rows of one format, one after another; what a row needs beside is kept from row to row.
#pragma once

#include <cstdint>
#include <memory>

#include "../formats.h"

namespace expertly {

class Encoder {
public:
    virtual ~Encoder() = default;

    // columns: whole blocks. costs: above 0, what a squared error in each column costs
    virtual void row(const float* w, const float* costs, int64_t columns, uint8_t* out) = 0;
};

std::unique_ptr<Encoder> float_encoder(Format format);  // f32 f16 bf16
std::unique_ptr<Encoder> small_encoder(Format format);  // blocks of 32
std::unique_ptr<Encoder> super_encoder(Format format);  // blocks of 256
std::unique_ptr<Encoder> i4_encoder();

}  // namespace expertly
