// Blocks of 32 weights: one scale, perhaps a minimum.
#include <initializer_list>
#include <limits>

#include "../layout.h"
#include "affine.h"
#include "encoder.h"
#include "scaled.h"
#include "stored.h"

namespace expertly {

namespace {

constexpr int kSize = 32;

// columns 0..15 in the low halves
void put_nibbles(const uint8_t* codes, uint8_t* to) {
    for (int i = 0; i < 16; ++i)
        to[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

// bit 4 of every code
void put_fifth_bits(const uint8_t* codes, uint8_t* to) {
    uint32_t bits = 0;
    for (int i = 0; i < kSize; ++i) bits |= static_cast<uint32_t>(codes[i] >> 4) << i;
    std::memcpy(to, &bits, 4);
}

void put_codes(Format format, const uint8_t* codes, uint8_t* to) {
    if (format == Format::q5_0 || format == Format::q5_1) {
        put_fifth_bits(codes, to);
        to += 4;
    }
    put_nibbles(codes, to);
}

class Blocks : public Encoder {
public:
    explicit Blocks(Format format) : format_(format) {}

    void row(const float* w, const float* costs, int64_t columns, uint8_t* out) override {
        for (int64_t c = 0; c < columns; c += kSize, out += block_of(format_).num_bytes) {
            const float unit = unit_of(w + c, kSize);
            float scaled[kSize];
            for (int i = 0; i < kSize; ++i) scaled[i] = w[c + i] * (1 / unit);
            block(scaled, costs + c, unit, out);
        }
    }

protected:
    virtual void block(const float* w, const float* costs, float unit, uint8_t* out) = 0;

    Format format_;
};

// the plain scale, the fitted one or 0, whichever costs least as it is stored; or one that loses
// nothing: the extreme weight of a group that came from a file can be any value of the book
template <class Book>
float stored_scale(const Group<kSize>& group, const Book& book, const Stored& stored) {
    float best = stored(plain_scale(group, book));
    float least = rounding_error(group, best, book);
    const auto attempt = [&](float scale) {
        const float error = rounding_error(group, scale, book);
        if (error < least) least = error, best = scale;
    };
    attempt(stored(fit_scale(group, book).scale));
    attempt(0);
    const float extreme = extreme_of(group), inverse = inverse_of(extreme);
    // in an even book the other half is the same with scales below 0
    const int num_codes = book.num_values() / (book.lowest == -book.highest ? 2 : 1);
    for (int code = 0; code < num_codes; ++code) {
        const float value = book.value(code);
        if (value != 0 && holds(group, value * inverse, book)) attempt(stored(extreme / value));
    }
    return best;
}

template <class Book>
class ScaledBlocks : public Blocks {
public:
    ScaledBlocks(Format format, const Book& book) : Blocks(format), book_(book) {}

protected:
    void block(const float* w, const float* costs, float unit, uint8_t* out) override {
        const Stored stored(unit);
        Group<kSize> group;
        group.fill(w, costs, false);
        const float scale = stored_scale(group, book_, stored);
        put_half(out, stored.half(scale));
        float q[kSize];
        round_scaled(group, scale, book_, q);
        if (format_ == Format::q8_0) {
            for (int i = 0; i < kSize; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int>(q[i]));
            return;
        }
        uint8_t codes[kSize];
        for (int i = 0; i < kSize; ++i) codes[i] = static_cast<uint8_t>(book_.code(q[i]));
        put_codes(format_, codes, out + 2);
    }

private:
    Book book_;
};

class AffineBlocks : public Blocks {
public:
    AffineBlocks(Format format, int top) : Blocks(format), top_(top) {}

protected:
    void block(const float* w, const float* costs, float unit, uint8_t* out) override {
        constexpr float kNone = -std::numeric_limits<float>::max();
        const Stored stored(unit);
        Group<kSize> group;
        group.fill(w, costs, true);
        Affine best = as_stored(group, span(group, top_, kNone), stored);
        keep_better(best, as_stored(group, fit_affine(group, top_, kNone), stored));
        keep_held(best, group, stored);
        put_half(out, stored.half(best.scale));
        put_half(out + 2, stored.half(-best.min));
        float q[kSize];
        round_affine(group, best.scale, best.min + group.base, top_, q);
        uint8_t codes[kSize];
        for (int i = 0; i < kSize; ++i) codes[i] = static_cast<uint8_t>(q[i]);
        put_codes(format_, codes, out + 4);
    }

private:
    // with a minimum that counts from 0
    Affine as_stored(const Group<kSize>& group, const Affine& from, const Stored& stored) const {
        const float scale = stored(from.scale), min = -stored(group.base - from.min);
        float q[kSize];
        round_affine(group, scale, min + group.base, top_, q);
        return {scale, min, error_of(group, q, scale, min + group.base)};
    }

    static void keep_better(Affine& best, const Affine& other) {
        if (other.error < best.error) best = other;
    }

    // weights that came from a file lie whole steps apart, from any code to any other
    void keep_held(Affine& best, const Group<kSize>& group, const Stored& stored) const {
        if (group.most == 0) return keep_sum(best, group, stored);
        const float inverse = inverse_of(group.most);
        for (int width = 1; width <= top_; ++width) {
            const float highest = static_cast<float>(width);
            if (!holds(group, highest * inverse, Whole{0, highest})) continue;
            const float scale = stored(group.most / highest);
            for (int low = 0; low + width <= top_; ++low) {
                const float min = scale * static_cast<float>(low);
                keep_better(best, as_stored(group, {scale, min, 0}, stored));
            }
        }
    }

    // a single weight shows no steps: minima below it, and what is left from any code
    void keep_sum(Affine& best, const Group<kSize>& group, const Stored& stored) const {
        constexpr int kMinima = 8;
        const float apart = std::fabs(group.base) * 0x1p-11f;  // half a step of float16, or a whole
        for (int i = 0; i < kMinima; ++i) {
            const float rest = group.base - stored(group.base - apart * static_cast<float>(i));
            for (int code = 1; code <= top_ && rest > 0 && best.error > 0; ++code)
                keep_better(best, as_stored(group, {rest / static_cast<float>(code), rest, 0}, stored));
        }
    }

    int top_;
};

// values by rising size; the codes 8..15 are the negative ones
struct Float4 : Table {
    static constexpr int8_t kRising[16] = {-12, -8, -6, -4, -3, -2, -1, 0,
                                           0,   1,  2,  3,  4,  6,  8,  12};

    Float4() : Table(kRising, 1) {}
    int code(float value) const {
        int i = 0;
        while (kMxfp4Table[i] - scheme_of(Format::mxfp4).offset != value) ++i;
        return i;
    }
};

class Mxfp4Blocks : public Blocks {
public:
    Mxfp4Blocks() : Blocks(Format::mxfp4) {}

protected:
    void block(const float* w, const float* costs, float unit, uint8_t* out) override {
        Group<kSize> group;
        group.fill(w, costs, false);
        const float extreme = std::fabs(extreme_of(group)) * unit;
        // the power of two for which little is cut off, and its neighbours; 12 * scale is finite
        const int first = extreme > 0 ? std::ilogb(extreme) + 125 : 0;
        float least = -1;
        for (int i = first - 1; i <= first + 1; ++i) {
            const int exponent = clamped(i, 0, 252);
            const float scale = half_of_exponent(static_cast<uint8_t>(exponent)) / unit;
            const float error = rounding_error(group, scale, book_);
            if (least >= 0 && !(error < least)) continue;
            least = error;
            write(group, scale, exponent, out);
        }
    }

private:
    void write(const Group<kSize>& group, float scale, int exponent, uint8_t* out) const {
        float q[kSize];
        uint8_t codes[kSize];
        round_scaled(group, scale, book_, q);
        for (int i = 0; i < kSize; ++i) codes[i] = static_cast<uint8_t>(book_.code(q[i]));
        out[0] = static_cast<uint8_t>(exponent);
        put_codes(format_, codes, out + 1);
    }

    Float4 book_;
};

template <class Book>
std::unique_ptr<Encoder> scaled(Format format, const Book& book) {
    return std::make_unique<ScaledBlocks<Book>>(format, book);
}

}  // namespace

std::unique_ptr<Encoder> small_encoder(Format format) {
    switch (format) {
        // -128 is left out: products of bytes that need a sign cannot hold it
        case Format::q8_0: return scaled(format, Whole{-127, 127});
        case Format::q4_0: return scaled(format, Whole{-8, 7});
        case Format::q5_0: return scaled(format, Whole{-16, 15});
        case Format::iq4_nl: return scaled(format, Table(kIq4Table, 14));
        case Format::q4_1: return std::make_unique<AffineBlocks>(format, 15);
        case Format::q5_1: return std::make_unique<AffineBlocks>(format, 31);
        default: return std::make_unique<Mxfp4Blocks>();
    }
}

}  // namespace expertly
