// Super-blocks of 256 weights, and our own rows of 4 bits.
#include <limits>
#include <vector>

#include "blocks_affine.h"
#include "blocks_scaled.h"
#include "encoder.h"

namespace expertly {

namespace {

constexpr int kSize = 256;

// weights counted in a power of two near the greatest of them
void scale_into(const float* w, int64_t count, float unit, float* out) {
    const float inverse = 1 / unit;
    for (int64_t i = 0; i < count; ++i) out[i] = w[i] * inverse;
}

class SuperBlocks : public Encoder {
public:
    explicit SuperBlocks(Format format) : format_(format) {}

    void row(const float* w, const float* costs, int64_t columns, uint8_t* out) override {
        for (int64_t c = 0; c < columns; c += kSize, out += block_of(format_).num_bytes) {
            const float unit = unit_of(w + c, kSize);
            float scaled[kSize];
            scale_into(w + c, kSize, unit, scaled);
            block(scaled, costs + c, Stored(unit), out);
        }
    }

protected:
    virtual void block(const float* w, const float* costs, const Stored& stored, uint8_t* out) = 0;

    Format format_;
};

// eight scales and eight minima of 6 bits in 12 bytes
void put_k_scales(const int* scales, const int* mins, uint8_t* to) {
    for (int j = 0; j < 4; ++j) {
        to[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
        to[j + 4] = static_cast<uint8_t>(mins[j] | (mins[j + 4] >> 4) << 6);
        to[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
}

// q4_k and q5_k: eight groups of 32
class EightGroups : public SuperBlocks {
public:
    EightGroups(Format format, int top)
        : SuperBlocks(format), solver_({top, 63, 63}) {}

protected:
    void block(const float* w, const float* costs, const Stored& stored, uint8_t* out) override {
        solver_.solve(w, costs, 8, stored, stored);
        std::memset(out, 0, static_cast<size_t>(block_of(format_).num_bytes));
        put_half(out, stored.half(solver_.units().scale));
        put_half(out + 2, stored.half(solver_.units().min));
        int scales[8], mins[8];
        uint8_t codes[32];
        uint8_t* fifths = out + 16;
        uint8_t* nibbles = format_ == Format::q5_k ? fifths + 32 : fifths;
        for (int j = 0; j < 8; ++j) {
            scales[j] = solver_.levels(j).scale, mins[j] = solver_.levels(j).min;
            solver_.codes(j, codes);
            for (int i = 0; i < 32; ++i) {
                nibbles[j / 2 * 32 + i] |= static_cast<uint8_t>((codes[i] & 15) << (j % 2 * 4));
                if (format_ == Format::q5_k)
                    fifths[i] |= static_cast<uint8_t>(codes[i] >> 4 << j);
            }
        }
        put_k_scales(scales, mins, out + 4);
    }

private:
    AffineBlock<32> solver_;
};

// halves of 128 columns, each in 32 bytes: a pair of bits for each 32 columns
void put_pairs(int sixteenth, const uint8_t* codes, uint8_t* to) {
    const int column = sixteenth * 16, shift = column / 32 % 4 * 2;
    for (int i = 0; i < 16; ++i)
        to[column / 128 * 32 + column % 32 + i] |= static_cast<uint8_t>((codes[i] & 3) << shift);
}

class Q2K : public SuperBlocks {
public:
    Q2K() : SuperBlocks(Format::q2_k), solver_({3, 15, 15}) {}

protected:
    void block(const float* w, const float* costs, const Stored& stored, uint8_t* out) override {
        solver_.solve(w, costs, 16, stored, stored);
        std::memset(out, 0, static_cast<size_t>(block_of(format_).num_bytes));
        for (int j = 0; j < 16; ++j) {
            out[j] = static_cast<uint8_t>(solver_.levels(j).scale | solver_.levels(j).min << 4);
            uint8_t codes[16];
            solver_.codes(j, codes);
            put_pairs(j, codes, out + 16);
        }
        put_half(out + 80, stored.half(solver_.units().scale));
        put_half(out + 82, stored.half(solver_.units().min));
    }

private:
    AffineBlock<16> solver_;
};

class Q3K : public SuperBlocks {
public:
    Q3K() : SuperBlocks(Format::q3_k), solver_({-4, 3}, {-32, 31}) {}

protected:
    void block(const float* w, const float* costs, const Stored& stored, uint8_t* out) override {
        solver_.solve(w, costs, stored);
        std::memset(out, 0, static_cast<size_t>(block_of(format_).num_bytes));
        for (int j = 0; j < 16; ++j) {
            uint8_t codes[16];
            solver_.codes(j, codes);
            put_pairs(j, codes, out + 32);
            for (int i = 0; i < 16; ++i)
                out[j % 2 * 16 + i] |= static_cast<uint8_t>(codes[i] >> 2 << (j / 2));
            put_level(j, solver_.level(j) + 32, out + 96);
        }
        put_half(out + 108, stored.half(solver_.unit()));
    }

private:
    // 6 bits: four in a nibble of bytes 0..7, two in bytes 8..11
    static void put_level(int j, int level, uint8_t* to) {
        to[j % 8] |= static_cast<uint8_t>((level & 15) << (j / 8 * 4));
        to[8 + j % 4] |= static_cast<uint8_t>(level >> 4 << (j / 4 * 2));
    }

    ScaledBlock solver_;
};

class Q6K : public SuperBlocks {
public:
    Q6K() : SuperBlocks(Format::q6_k), solver_({-32, 31}, {-128, 127}) {}

protected:
    void block(const float* w, const float* costs, const Stored& stored, uint8_t* out) override {
        solver_.solve(w, costs, stored);
        std::memset(out, 0, static_cast<size_t>(block_of(format_).num_bytes));
        for (int j = 0; j < 16; ++j) {
            uint8_t codes[16];
            solver_.codes(j, codes);
            put_sixes(j, codes, out);
            out[192 + j] = static_cast<uint8_t>(solver_.level(j));
        }
        put_half(out + 208, stored.half(solver_.unit()));
    }

private:
    // halves of 128 columns: nibbles in 64 bytes, the upper pairs of bits in 32
    static void put_sixes(int j, const uint8_t* codes, uint8_t* out) {
        const int half = j / 8, column = j % 8 * 16;
        for (int i = 0; i < 16; ++i) {
            const int in_half = column + i;
            out[half * 64 + in_half % 64] |=
                static_cast<uint8_t>((codes[i] & 15) << (in_half / 64 * 4));
            out[128 + half * 32 + in_half % 32] |=
                static_cast<uint8_t>(codes[i] >> 4 << (in_half / 32 * 2));
        }
    }

    ScaledBlock solver_;
};

class I4 : public Encoder {
public:
    I4() : solver_({15, 255, 255}) {}

    void row(const float* w, const float* costs, int64_t columns, uint8_t* out) override {
        const float unit = unit_of(w, columns);
        constexpr float kMost = std::numeric_limits<float>::max();
        const Stored d(unit, kMost / (255 * 16)), dmin(unit, kMost / 256);
        scaled_.resize(static_cast<size_t>(columns));
        scale_into(w, columns, unit, scaled_.data());
        solver_.solve(scaled_.data(), costs, columns / 32, d, dmin);
        const float units[2] = {d.full(solver_.units().scale), dmin.full(solver_.units().min)};
        std::memcpy(out, units, 8);
        out += 8;
        for (int64_t j = 0; j < columns / 32; ++j, out += 18) {
            uint8_t codes[32];
            solver_.codes(j, codes);
            out[0] = static_cast<uint8_t>(solver_.levels(j).scale);
            out[1] = static_cast<uint8_t>(solver_.levels(j).min);
            for (int i = 0; i < 16; ++i)
                out[2 + i] = static_cast<uint8_t>(codes[i] | codes[i + 16] << 4);
        }
    }

private:
    AffineBlock<32> solver_;
    std::vector<float> scaled_;
};

}  // namespace

std::unique_ptr<Encoder> super_encoder(Format format) {
    switch (format) {
        case Format::q4_k: return std::make_unique<EightGroups>(format, 15);
        case Format::q5_k: return std::make_unique<EightGroups>(format, 31);
        case Format::q6_k: return std::make_unique<Q6K>();
        case Format::q3_k: return std::make_unique<Q3K>();
        default: return std::make_unique<Q2K>();
    }
}

std::unique_ptr<Encoder> i4_encoder() { return std::make_unique<I4>(); }

}  // namespace expertly
