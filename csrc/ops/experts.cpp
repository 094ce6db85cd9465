#include "experts.h"

#include <algorithm>

#include "glu.h"

namespace expertly {

namespace {

// a block's activations stay in the second-level cache while the expert's tiles stream past
constexpr int64_t kRowBlock = 128;

// some rows of one expert, and some parts (groups of columns, or tiles) of its matrices
struct Item {
    BankWork* work;
    int64_t expert, first_row, num_rows, begin, end;
};

// parts an item: few enough that the items of uneven experts fill all threads
int64_t parts_an_item(int64_t total, int threads) {
    return std::clamp<int64_t>(total / (16 * threads), 1, 8);
}

template <class Parts>
std::vector<Item> split(BankWork* works, int count, int threads, const Parts& parts_of) {
    int64_t total = 0;
    const auto blocks = [](int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; };
    for (int w = 0; w < count; ++w)
        for (size_t e = 0; e < works[w].bank->experts.size(); ++e)
            total += blocks(works[w].rows.count(e)) * parts_of(works[w].bank->experts[e]);
    const int64_t step = parts_an_item(total, threads);
    std::vector<Item> items;
    for (int w = 0; w < count; ++w)
        for (size_t e = 0; e < works[w].bank->experts.size(); ++e) {
            const int64_t rows = works[w].rows.count(e), first = works[w].rows.first(e);
            const int64_t parts = parts_of(works[w].bank->experts[e]);
            for (int64_t row = 0; row < rows; row += kRowBlock)
                for (int64_t part = 0; part < parts; part += step)
                    items.push_back({&works[w], static_cast<int64_t>(e), first + row,
                                     std::min(kRowBlock, rows - row), part,
                                     std::min(parts, part + step)});
        }
    return items;
}

void add_bias(const float* bias, int64_t n, float* y) {
    if (bias == nullptr) return;
    for (int64_t i = 0; i < n; ++i) y[i] += bias[i];
}

const float* offset(const float* bias, int64_t by) { return bias ? bias + by : nullptr; }

// columns 32 * group onwards of both tiles of a matrix, for the item's rows: out [rows][32]
void project(const Kernels& kernels, const Matrix& w, int64_t group, const Activations& x,
             const Item& item, float* out) {
    const int32_t* rows = item.work->rows.tokens() + item.first_row;
    const auto kernel = kernels.tile[static_cast<int>(w.format)];
    for (int64_t half = 0; half < 2 && 2 * group + half < w.layout.tiles; ++half)
        kernel(w.tile(2 * group + half), w.layout, x, rows, static_cast<int>(item.num_rows),
               out + half * kTileRows, kGroup);
}

// the hidden activations of the item's rows and groups
void hide(const Kernels& kernels, const Activations& x, const Item& item) {
    float gate[kRowBlock * kGroup], up[kRowBlock * kGroup];
    const Expert& expert = item.work->bank->experts[item.expert];
    const int64_t width = expert.gate.layout.rows;
    for (int64_t group = item.begin; group < item.end; ++group) {
        project(kernels, expert.gate, group, x, item, gate);
        project(kernels, expert.up, group, x, item, up);
        const int64_t first = group * kGroup, n = std::min<int64_t>(kGroup, width - first);
        for (int64_t i = 0; i < item.num_rows; ++i) {
            float* g = gate + i * kGroup;
            float* u = up + i * kGroup;
            add_bias(offset(expert.gate_bias, first), n, g);
            add_bias(offset(expert.up_bias, first), n, u);
            glu(kernels, g, u, item.work->bank->rule, n, g);
            item.work->hidden.fill_group(kernels, item.first_row + i, group, g, n);
        }
    }
}

int64_t result_stride(const Bank& bank) {
    return bank.experts.front().down.layout.tiles * kTileRows;
}

// results of the item's rows and tiles: y [rows of the bank][stride]
void lower(const Kernels& kernels, const Item& item, float* y, int64_t stride) {
    const Matrix& w = item.work->bank->experts[item.expert].down;
    const Activations part = moved(item.work->hidden.view(), item.first_row);
    const auto kernel = kernels.tile[static_cast<int>(w.format)];
    for (int64_t tile = item.begin; tile < item.end; ++tile)
        kernel(w.tile(tile), w.layout, part, nullptr, static_cast<int>(item.num_rows),
               y + item.first_row * stride + tile * kTileRows, stride);
}

// sum += the weighted results of one token's slots, in order, for `n` columns from `first`;
// result(work, slot) points at the slot's columns
template <class Result>
void add_slots(const Kernels& kernels, BankWork& work, int64_t token, int64_t first, int64_t n,
               const Result& result, float* sum) {
    const int64_t k = work.choice.num_chosen;
    for (int64_t slot = 0; slot < k; ++slot) {
        const int64_t id = work.choice.ids[token * k + slot];
        float* y = result(slot, id);
        add_bias(offset(work.bank->experts[id].down_bias, first), n, y);
        kernels.add_scaled(y, work.choice.weights[token * k + slot], n, sum);
    }
}

// the token's results from all banks onto x, a span of columns at a time
void combine(const Kernels& kernels, BankWork* works, int count, float* const* results,
             int64_t token, int64_t columns, float* x) {
    constexpr int64_t kSpan = 256;
    for (int64_t first = 0; first < columns; first += kSpan) {
        const int64_t n = std::min(kSpan, columns - first);
        float sum[kSpan] = {};
        for (int w = 0; w < count; ++w) {
            const int64_t stride = result_stride(*works[w].bank), k = works[w].choice.num_chosen;
            const auto result = [&](int64_t slot, int64_t) {
                return results[w] + works[w].rows.place(token, slot, k) * stride + first;
            };
            add_slots(kernels, works[w], token, first, n, result, sum);
        }
        for (int64_t i = 0; i < n; ++i) x[first + i] += sum[i];
    }
}

// a single token: each tile of columns is summed over the slots at once
void lower_one(const Kernels& kernels, BankWork* works, int count, int64_t tile, int64_t columns,
               float* x) {
    const int64_t first = tile * kTileRows, n = std::min<int64_t>(kTileRows, columns - first);
    float sum[kTileRows] = {}, y[kTileRows];
    for (int w = 0; w < count; ++w) {
        BankWork& work = works[w];
        const auto result = [&](int64_t slot, int64_t id) {
            const Matrix& down = work.bank->experts[id].down;
            const int32_t row = static_cast<int32_t>(
                work.rows.place(0, slot, work.choice.num_chosen));
            kernels.tile[static_cast<int>(down.format)](
                down.tile(tile), down.layout, work.hidden.view(), &row, 1, y, kTileRows);
            return y;
        };
        add_slots(kernels, work, 0, first, n, result, sum);
    }
    for (int64_t i = 0; i < n; ++i) x[first + i] += sum[i];
}

void lower_all(Runtime& runtime, BankWork* works, int count, int64_t tokens, int64_t columns,
               float* x) {
    float* results[2];
    for (int w = 0; w < count; ++w) {
        const int64_t rows = tokens * works[w].choice.num_chosen;
        results[w] = works[w].results.get<float>(rows * result_stride(*works[w].bank));
    }
    const auto tiles = [](const Expert& e) { return e.down.layout.tiles; };
    const auto items = split(works, count, runtime.pool.threads(), tiles);
    runtime.pool.run(static_cast<int64_t>(items.size()), [&](int64_t i) {
        const int64_t w = items[i].work - works;
        lower(runtime.kernels, items[i], results[w], result_stride(*works[w].bank));
    });
    runtime.pool.run(tokens, [&](int64_t t) {
        combine(runtime.kernels, works, count, results, t, columns, x + t * columns);
    });
}

}  // namespace

Forms Bank::input_forms() const {
    Forms forms;
    for (const Expert& expert : experts) forms.add(expert.gate.format), forms.add(expert.up.format);
    return forms;
}

Forms Bank::hidden_forms() const {
    Forms forms;
    for (const Expert& expert : experts) forms.add(expert.down.format);
    return forms;
}

void SortedRows::sort(const Choice& choice, int64_t tokens, int64_t num_experts) {
    const int64_t rows = tokens * choice.num_chosen;
    first_.assign(static_cast<size_t>(num_experts) + 1, 0);
    token_.resize(static_cast<size_t>(rows));
    place_.resize(static_cast<size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) ++first_[choice.ids[r] + 1];
    for (int64_t e = 0; e < num_experts; ++e) first_[e + 1] += first_[e];
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t place = next[choice.ids[r]]++;
        token_[place] = static_cast<int32_t>(r / choice.num_chosen);
        place_[r] = place;
    }
}

void feed_forward(Runtime& runtime, BankWork* works, int count, const Activations& activations,
                  int64_t tokens, float* x, int64_t columns) {
    for (int w = 0; w < count; ++w) {
        BankWork& work = works[w];
        work.rows.sort(work.choice, tokens, static_cast<int64_t>(work.bank->experts.size()));
        work.hidden.resize(tokens * work.choice.num_chosen, work.bank->width(),
                           work.bank->hidden_forms(), nullptr, 0);
    }
    const auto groups = [](const Expert& e) { return (e.gate.layout.rows + kGroup - 1) / kGroup; };
    const auto items = split(works, count, runtime.pool.threads(), groups);
    runtime.pool.run(static_cast<int64_t>(items.size()),
                     [&](int64_t i) { hide(runtime.kernels, activations, items[i]); });
    if (tokens > 1) return lower_all(runtime, works, count, tokens, columns, x);
    const int64_t tiles = (columns + kTileRows - 1) / kTileRows;
    const int64_t step = std::clamp<int64_t>(tiles / (8 * runtime.pool.threads()), 1, 8);
    runtime.pool.run((tiles + step - 1) / step, [&](int64_t item) {
        for (int64_t t = item * step; t < std::min(tiles, (item + 1) * step); ++t)
            lower_one(runtime.kernels, works, count, t, columns, x);
    });
}

}  // namespace expertly
