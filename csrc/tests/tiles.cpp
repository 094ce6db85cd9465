// Strip of every format against rows of activations: as generic has them, and as they are defined.

#include <algorithm>
#include <cmath>
#include <memory>

#include "../half.h"
#include "../pack.h"
#include "check.h"

namespace expertly {

namespace {

constexpr int64_t kColumns[] = {1, 2, 7, 33, 50, 32, 96, 256, 512, 1080};
constexpr int64_t kRows[] = {1, 15, 17};
constexpr int64_t kTokens = 24;
constexpr int64_t kOrdinary = 16;  // of them; the others are strange
constexpr int64_t kWideStride = kTileRows + 5;  // leaves room between rows of results
// float32 sums of up to 512 products, over the norms of the row and the weights
constexpr double kTolerance = 2e-6;

using Tokens = std::vector<std::vector<float>>;

Tokens random_tokens(int64_t columns) {
    Random random(static_cast<uint64_t>(columns));
    Tokens tokens;
    for (int64_t t = 0; t < kTokens; ++t) {
        tokens.push_back(t < kOrdinary ? random.row(columns) : random.strange_row(columns));
        const double size = t == 1 ? 0.0 : std::pow(10.0, random.uniform(-2.0, 2.0));
        for (float& x : tokens.back())
            if (t < kOrdinary) x = static_cast<float>(x * size);
    }
    return tokens;
}

// n tokens from the first on in the form that a format wants, each part before a guard
class Rows {
public:
    Rows(const Kernels& kernels, Format format, const Tokens& tokens, int64_t first, int64_t n)
        : n_(n), columns_(static_cast<int64_t>(tokens[0].size())), wanted_(wanted_by(format)),
          x_(of(Wanted::floats, columns_)), bf16_(of(Wanted::bf16, padded())),
          groups_(of(Wanted::groups, groups() * kRecordBytes)),
          halves_(of(Wanted::groups, groups() * kHalvesBytes)) {
        for (int64_t t = 0; t < n; ++t) fill(kernels, t, tokens[static_cast<size_t>(first + t)]);
    }

    Panel panel() const {
        Panel panel{static_cast<int>(n_), columns_, nullptr, nullptr, nullptr, nullptr};
        if (wanted_ == Wanted::floats) panel.x = x_.data();
        if (wanted_ == Wanted::bf16) panel.bf16 = bf16_.data();
        if (wanted_ == Wanted::groups) panel.groups = groups_.data(), panel.halves = halves_.data();
        return panel;
    }

    // number c of the only row as the kernel has it
    double at(int64_t c) const {
        if (wanted_ == Wanted::floats) return x_.data()[c];
        if (wanted_ == Wanted::bf16) return float_of_bf16(bf16_.data()[c]);
        const GroupPlaces places = places_in(groups_.data(), halves_.data(), 1, 0).at(c / kGroup);
        return static_cast<double>(*places.scale) * places.q[c % kGroup];
    }

private:
    int64_t padded() const { return (columns_ + 1) / 2 * 2; }
    int64_t groups() const { return (columns_ + kGroup - 1) / kGroup; }
    int64_t of(Wanted wanted, int64_t width) const { return wanted == wanted_ ? n_ * width : 0; }

    void fill(const Kernels& kernels, int64_t t, const std::vector<float>& values) {
        const Guarded<float> row(values);
        if (wanted_ == Wanted::floats)
            std::copy(values.begin(), values.end(), x_.data() + t * columns_);
        if (wanted_ == Wanted::bf16)
            kernels.to_bf16(row.data(), columns_, bf16_.data() + t * padded());
        if (wanted_ == Wanted::groups)
            kernels.quantise_row(row.data(), columns_,
                                 places_in(groups_.data(), halves_.data(), n_, t));
    }

    int64_t n_, columns_;
    Wanted wanted_;
    Guarded<float> x_;
    Guarded<uint16_t> bf16_;
    Guarded<uint8_t> groups_, halves_;
};

// bfloat16's dot products round differently where the processor has an instruction for them: then
// a set's panels are held against its own single rows
const Kernels& model_of(const Kernels& kernels, Format format) {
    return format == Format::bf16 ? kernels : kGenericKernels;
}

// the tokens one by one; in panels of every size: of ordinary ones, of strange ones, of both; and in
// the panels of a span, which follow each other
struct Inputs {
    struct Part {
        int64_t first, n;
        std::unique_ptr<Rows> rows;
    };
    std::vector<Part> model, singles, panels, span;

    Inputs(const Kernels& kernels, Format format, int64_t columns) {
        const Tokens tokens = random_tokens(columns);
        const auto part = [&](const Kernels& by, int64_t first, int64_t n) {
            return Part{first, n, std::make_unique<Rows>(by, format, tokens, first, n)};
        };
        for (int64_t t = 0; t < kTokens; ++t) {
            model.push_back(part(model_of(kernels, format), t, 1));
            singles.push_back(part(kernels, t, 1));
        }
        for (int64_t n = 1; n <= kernels.max_rows; ++n)
            for (int64_t first : {kTokens - n, n % 5, kOrdinary - n / 2})
                panels.push_back(part(kernels, std::min(first, kTokens - n), n));
        const int64_t larger = kernels.max_rows, smaller = larger - 1;
        for (int64_t n : {larger, smaller})
            span.push_back(part(kernels, n == larger ? 0 : larger, n));
    }
};

struct Case {
    Format format;
    int64_t rows, columns;
    bool has_any_bits;

    std::string name() const {
        return std::string(block_of(format).name) + (has_any_bits ? ", any bits, " : " ") +
               std::to_string(rows) + "x" + std::to_string(columns);
    }
};

class TileCheck {
public:
    TileCheck(Check& check, const Case& which, const Inputs& inputs)
        : check_(check), case_(which), layout_(layout_of(which.format, which.rows, which.columns)),
          inputs_(inputs) {}

    void run() {
        Random random(static_cast<uint64_t>(case_.rows * 1000 + case_.columns));
        const auto blocks = random_blocks(case_.format, case_.rows, case_.columns,
                                          case_.has_any_bits, random);
        std::vector<uint8_t> tiles(static_cast<size_t>(layout_.num_bytes()));
        pack_rows(layout_, case_.format, blocks.data(), 0, case_.rows, tiles.data());
        for (int64_t tile = 0; tile < layout_.tiles; ++tile) {
            const uint8_t* from = tiles.data() + tile * layout_.tile_bytes;
            const std::vector<uint8_t> bytes(from, from + layout_.tile_bytes);
            check_tile(Guarded<uint8_t>(bytes), tile);
        }
    }

private:
    using Parts = std::vector<const Inputs::Part*>;

    void multiply(const Kernels& kernels, const Guarded<uint8_t>& tile, const Parts& parts,
                  Strip ahead, float* y, int64_t stride) const {
        std::vector<Panel> panels;
        for (const Inputs::Part* part : parts) panels.push_back(part->rows->panel());
        const Panels x{panels.data(), static_cast<int64_t>(panels.size())};
        kernels.tile[static_cast<int>(case_.format)]({tile.data(), 1}, layout_, x, ahead, y, stride);
    }

    void check_tile(const Guarded<uint8_t>& tile, int64_t index) {
        const std::string name = case_.name() + ", tile " + std::to_string(index);
        const Kernels& model = model_of(check_.kernels, case_.format);
        const auto expected = one_by_one(model, inputs_.model, tile);
        for (const Inputs::Part& panel : inputs_.panels) check_panels(tile, {&panel}, expected, name);
        check_panels(tile, {&inputs_.span[0], &inputs_.span[1]}, expected, name);
        if (!case_.has_any_bits) check_definition(tile, index, name);
    }

    std::vector<float> one_by_one(const Kernels& kernels, const std::vector<Inputs::Part>& singles,
                                  const Guarded<uint8_t>& tile) const {
        std::vector<float> y(kTokens * kTileRows);
        for (const auto& single : singles)
            multiply(kernels, tile, {&single}, {nullptr, 0},
                     y.data() + single.first * kTileRows, kTileRows);
        return y;
    }

    void check_panels(const Guarded<uint8_t>& tile, const Parts& parts,
                      const std::vector<float>& expected, const std::string& name) {
        int64_t n = 0;
        for (const Inputs::Part* part : parts) n += part->n;
        const int64_t stride = n % 2 ? kWideStride : kTileRows;
        const Guarded<float> y((n - 1) * stride + kTileRows);
        const Strip ahead = n % 3 ? Strip{tile.data(), 1} : Strip{nullptr, 0};
        multiply(check_.kernels, tile, parts, ahead, y.data(), stride);
        const std::string what = name + ", " + std::to_string(n) + " rows";
        std::vector<float> found;
        bool is_kept = true;
        for (int64_t i = 0; i < y.size(); ++i) {
            const float value = y.data()[i];
            if (i % stride < kTileRows) found.push_back(value);
            else is_kept &= bits_of_float(value) == 0xFFFFFFFF;
        }
        const float* from = expected.data() + parts.front()->first * kTileRows;
        check_.same(found.data(), from, n * kTileRows, what);
        check_.that(is_kept, what + ": wrote between its rows");
    }

    // in float64, from the weights as unpack_row has them
    void check_definition(const Guarded<uint8_t>& tile, int64_t index, const std::string& name) {
        Layout whole = layout_;
        if (wanted_by(case_.format) == Wanted::groups) whole.columns = whole.groups * kGroup;
        const Matrix matrix{case_.format, whole, tile.data()};
        const int64_t rows = std::min<int64_t>(kTileRows, case_.rows - index * kTileRows);
        const auto y = one_by_one(check_.kernels, inputs_.singles, tile);
        std::vector<float> w(static_cast<size_t>(whole.columns));
        double worst = 0.0;
        for (int64_t row = 0; row < rows; ++row) {
            unpack_row(matrix, row, w.data());
            for (int64_t t = 0; t < kOrdinary; ++t)
                worst = std::max(worst, error(w, t, y[static_cast<size_t>(t * kTileRows + row)]));
        }
        check_.that(worst <= kTolerance,
                    name + ": off its definition by " + std::to_string(worst / kTolerance) +
                        " times what is allowed");
    }

    // the norm is of all columns, padding too: a weight errs by the size of what it is the
    // difference of, which its neighbours show; a result that is no number errs by infinity
    double error(const std::vector<float>& w, int64_t t, double found) const {
        const Rows& row = *inputs_.singles[static_cast<size_t>(t)].rows;
        double sum = 0.0, w_square = 0.0, x_square = 0.0;
        for (size_t c = 0; c < w.size(); ++c) w_square += double(w[c]) * w[c];
        for (int64_t c = 0; c < case_.columns; ++c) {
            const double x = row.at(c);
            sum += x * w[static_cast<size_t>(c)];
            x_square += x * x;
        }
        if (!std::isfinite(found)) return HUGE_VAL;
        const double norms = std::sqrt(w_square) * std::sqrt(x_square);
        return norms == 0.0 ? std::fabs(found) : std::fabs(found - sum) / norms;
    }

    Check& check_;
    Case case_;
    Layout layout_;
    const Inputs& inputs_;
};

}  // namespace

void check_tiles(Check& check) {
    for (int i = 0; i < static_cast<int>(Format::count); ++i) {
        const Format format = static_cast<Format>(i);
        for (int64_t columns : kColumns) {
            // rows of super-blocks are never padded
            if (block_of(format).size > kGroup && columns % block_of(format).size != 0) continue;
            const Inputs inputs(check.kernels, format, columns);
            for (int64_t rows : kRows)
                for (bool has_any_bits : {false, true})
                    TileCheck(check, {format, rows, columns, has_any_bits}, inputs).run();
        }
    }
}

}  // namespace expertly
