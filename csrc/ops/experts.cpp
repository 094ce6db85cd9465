#include "experts.h"

#include <algorithm>
#include <utility>

#include "glu.h"
#include "tiles.h"

namespace expertly {

namespace {

// some panels of one expert, and some parts (groups of columns, or tiles) of its matrices
struct Item {
    BankWork* work;
    int64_t expert, first, last;  // panels
    int64_t begin, end;           // parts

    const Span& span() const { return work->rows.span(expert); }
    const Expert& weights() const { return work->bank->experts[expert]; }
    int64_t first_row() const { return span().begin(first); }
    int64_t num_rows() const { return span().begin(last - 1) + span().size(last - 1) - first_row(); }
};

// parts an item: few enough that the items of uneven experts fill all threads, and a multiple of
// those that are computed together where there are that many
int64_t parts_an_item(int64_t total, int threads, int64_t together) {
    const int64_t parts = std::clamp<int64_t>(total / (32 * threads), 1, 8);
    return 2 * parts > together ? (parts + together - 1) / together * together : parts;
}

// a row that is a panel by itself is read where its token is, not from a copy
bool is_alone(const Span& span) { return span.count() == 1; }

// experts that have rows, in the order of their works
using Due = std::vector<std::pair<BankWork*, int64_t>>;

Due all_of(BankWork* works, int count) {
    Due all;
    for (int w = 0; w < count; ++w)
        for (size_t e = 0; e < works[w].bank->experts.size(); ++e)
            if (works[w].rows.span(e).panels() > 0) all.emplace_back(&works[w], e);
    return all;
}

template <class Parts>
std::vector<Item> split(const Due& due, const Runtime& runtime, int64_t together,
                        const Parts& parts_of) {
    const int64_t block = panels_a_block(runtime.kernels);
    std::vector<Item> wholes;
    int64_t total = 0;
    for (const auto& [work, e] : due) {
        const int64_t panels = work->rows.span(e).panels();
        for (int64_t first = 0; first < panels; first += block) {
            wholes.push_back({work, e, first, std::min(panels, first + block), 0,
                              parts_of(work->bank->experts[e])});
            total += wholes.back().end;
        }
    }
    const int64_t step = parts_an_item(total, runtime.pool.threads(), together);
    std::vector<Item> items;
    for (const Item& whole : wholes)
        for (int64_t part = 0; part < whole.end; part += step) {
            items.push_back(whole);
            items.back().begin = part, items.back().end = std::min(whole.end, part + step);
        }
    return items;
}

void add_bias(const float* bias, int64_t n, float* y) {
    if (bias == nullptr) return;
    for (int64_t i = 0; i < n; ++i) y[i] += bias[i];
}

const float* offset(const float* bias, int64_t by) { return bias ? bias + by : nullptr; }

int64_t groups_of(const Expert& expert) {
    return (expert.gate.layout.rows + kGroup - 1) / kGroup;
}

TileRun run_of(const Item* item, const Matrix Expert::*matrix) {
    if (item == nullptr) return {};
    const Matrix& w = item->weights().*matrix;
    return {&w, 2 * item->begin, std::min(2 * item->end, w.layout.tiles)};
}

// groups of hidden columns that are computed together
constexpr int64_t kGroupsAtOnce = kTilesAtOnce * kTileRows / kGroup;
constexpr int64_t kWidthAtOnce = kGroupsAtOnce * kGroup;

// columns 32 * group onwards, kGroupsAtOnce groups of them, for the item's rows: out [rows][width]
void project(const Kernels& kernels, const Matrix Expert::*matrix, int64_t group, const Item& item,
             const Item* next, float* out) {
    const auto multiply = [&](const ActivationBuffer& x, const Span& span, int64_t first,
                              int64_t last) {
        multiply_tiles(kernels, run_of(&item, matrix), 2 * group, run_of(next, matrix), x, span,
                       first, last, out, kWidthAtOnce);
    };
    const BankWork& work = *item.work;
    if (!is_alone(item.span())) return multiply(work.input, item.span(), item.first, item.last);
    const int64_t token = *work.rows.tokens(item.span().first());
    multiply(work.tokens, Span(0, token + 1, 1), token, token + 1);
}

// gate = the hidden activations of the item's rows in `n` columns from `first` on
void activate(const Kernels& kernels, const Item& item, int64_t first, int64_t n, float* gate,
              float* up) {
    const Expert& expert = item.weights();
    const GluRule& rule = item.work->bank->rule;
    const int64_t rows = item.num_rows();
    for (int64_t i = 0; i < rows; ++i) {
        add_bias(offset(expert.gate_bias, first), n, gate + i * kWidthAtOnce);
        add_bias(offset(expert.up_bias, first), n, up + i * kWidthAtOnce);
    }
    // whole rows follow each other without a gap
    if (n == kWidthAtOnce) return glu(kernels, gate, up, rule, rows * n, gate);
    for (int64_t i = 0; i < rows * kWidthAtOnce; i += kWidthAtOnce)
        glu(kernels, gate + i, up + i, rule, n, gate + i);
}

void hide(const Kernels& kernels, const Item& item, const Item* next) {
    float gate[kRowBlock * kWidthAtOnce], up[kRowBlock * kWidthAtOnce];
    const int64_t columns = std::min(item.end * kGroup, item.weights().gate.layout.rows);
    for (int64_t group = item.begin; group < item.end; group += kGroupsAtOnce) {
        project(kernels, &Expert::gate, group, item, next, gate);
        project(kernels, &Expert::up, group, item, next, up);
        const int64_t first = group * kGroup, n = std::min(kWidthAtOnce, columns - first);
        activate(kernels, item, first, n, gate, up);
        const float* h = gate;
        for (int64_t panel = item.first; panel < item.last; ++panel)
            for (int64_t i = 0; i < item.span().size(panel); ++i, h += kWidthAtOnce)
                item.work->hidden.fill_columns(kernels, item.span(), panel, i, group, h, n);
    }
}

// as `hide_all` would split experts of one panel each
void foresee_hide(Pool& pool, const std::vector<const Expert*>& experts) {
    int64_t total = 0;
    for (const Expert* expert : experts) total += groups_of(*expert);
    const int64_t step = parts_an_item(total, pool.threads(), kGroupsAtOnce);
    std::vector<std::pair<const Expert*, int64_t>> items;
    for (const Expert* expert : experts)
        for (int64_t part = 0; part < groups_of(*expert); part += step)
            items.emplace_back(expert, 2 * part);
    foresee_items(pool, static_cast<int64_t>(items.size()), [&](int thread, int64_t i) {
        const auto [expert, begin] = items[static_cast<size_t>(i)];
        bool has_room = true;
        for (int64_t tile = begin; tile < begin + 2 * step; tile += kTilesAtOnce)
            for (const Matrix* w : {&expert->gate, &expert->up}) {
                const TileRun run{w, 0, w->layout.tiles};
                has_room = foresee(pool.foresight(), thread, run, tile,
                                   std::min(tile + kTilesAtOnce, begin + 2 * step));
            }
        return has_room;
    });
}

int64_t result_stride(const Bank& bank) {
    return bank.experts.front().down.layout.tiles * kTileRows;
}

// results of the item's rows and tiles: y [rows of the bank][stride]
void lower(const Kernels& kernels, const Item& item, const Item* next, float* y, int64_t stride) {
    const auto run_of_item = [](const Item* i) {
        return i ? TileRun{&i->weights().down, i->begin, i->end} : TileRun{};
    };
    const TileRun run = run_of_item(&item), after = run_of_item(next);
    float* out = y + (item.span().first() + item.first_row()) * stride;
    for (int64_t tile = run.begin; tile < run.end; tile += kTilesAtOnce)
        multiply_tiles(kernels, run, tile, after, item.work->hidden, item.span(), item.first,
                       item.last, out + tile * kTileRows, stride);
}

// sum += the weighted results of one token's slots, in order, for `n` columns from `first`;
// result(work, slot) points at the slot's columns
template <class Result>
void add_slots(const Kernels& kernels, BankWork& work, int64_t token, int64_t first, int64_t n,
               const Result& result, float* sum) {
    const int64_t k = work.choice.num_chosen;
    for (int64_t slot = 0; slot < k; ++slot) {
        const int64_t id = work.choice.ids[token * k + slot];
        if (id == kEmpty) continue;
        float* y = result(slot, id);
        add_bias(offset(work.bank->experts[id].down_bias, first), n, y);
        kernels.add_scaled(y, work.choice.weights[token * k + slot], n, sum);
    }
}

// the token's results from all banks onto x, a span of columns at a time
void combine(const Kernels& kernels, BankWork* works, int count, int64_t token, int64_t columns,
             float* x) {
    constexpr int64_t kSpan = 256;
    for (int64_t first = 0; first < columns; first += kSpan) {
        const int64_t n = std::min(kSpan, columns - first);
        float sum[kSpan] = {};
        for (int w = 0; w < count; ++w) {
            const int64_t stride = result_stride(*works[w].bank), k = works[w].choice.num_chosen;
            const auto result = [&](int64_t slot, int64_t) {
                return works[w].y + works[w].rows.place(token, slot, k) * stride + first;
            };
            add_slots(kernels, works[w], token, first, n, result, sum);
        }
        for (int64_t i = 0; i < n; ++i) x[first + i] += sum[i];
    }
}

// a single token: some tiles of columns are summed over the slots at once
void lower_one(const Kernels& kernels, BankWork* works, int count, int64_t tile, int64_t end,
               int64_t next, int64_t columns, float* x) {
    constexpr int64_t kWidth = kTilesAtOnce * kTileRows;
    const int64_t first = tile * kTileRows;
    const int64_t n = std::min(std::min(kWidth, (end - tile) * kTileRows), columns - first);
    float sum[kWidth] = {}, y[kWidth];
    for (int w = 0; w < count; ++w) {
        BankWork& work = works[w];
        const auto result = [&](int64_t, int64_t id) {
            const Matrix& down = work.bank->experts[id].down;
            const TileRun run{&down, tile, end}, after{&down, next, down.layout.tiles};
            multiply_tiles(kernels, run, tile, after, work.hidden, work.rows.span(id), 0, 1, y,
                           kWidth);
            return y;
        };
        add_slots(kernels, work, 0, first, n, result, sum);
    }
    for (int64_t i = 0; i < n; ++i) x[first + i] += sum[i];
}

int64_t step_of_lower_one(int64_t tiles, const Pool& pool) {
    return std::clamp<int64_t>(tiles / (16 * pool.threads()), 1, kTilesAtOnce);
}

void foresee_lower(Pool& pool, const BankWork& work) {
    const int64_t tiles = work.bank->experts.front().down.layout.tiles;
    const int64_t step = step_of_lower_one(tiles, pool);
    foresee_items(pool, (tiles + step - 1) / step, [&](int thread, int64_t item) {
        bool has_room = true;
        for (int64_t slot = 0; slot < work.choice.num_chosen; ++slot) {
            const int32_t id = work.choice.ids[slot];
            if (id == kEmpty) continue;
            const TileRun run{&work.bank->experts[id].down, 0, tiles};
            has_room = foresee(pool.foresight(), thread, run, item * step, (item + 1) * step);
        }
        return has_room;
    });
}

void lower_one(Runtime& runtime, BankWork* works, int count, int64_t columns, float* x) {
    const int64_t tiles = (columns + kTileRows - 1) / kTileRows;
    const int64_t step = step_of_lower_one(tiles, runtime.pool);
    runtime.pool.run((tiles + step - 1) / step, [&](int64_t item, int64_t next) {
        const int64_t end = std::min(tiles, (item + 1) * step);
        for (int64_t t = item * step; t < end; t += kTilesAtOnce)
            lower_one(runtime.kernels, works, count, t, end, next < 0 ? tiles : next * step,
                      columns, x);
    });
}

// a single token whose experts are different ones: `lower_one` has room for a row an expert
bool is_one(const BankWork* works, int count, int64_t tokens) {
    const auto is_small = [](const BankWork& work) {
        const auto num_experts = static_cast<int64_t>(work.bank->experts.size());
        for (int64_t e = 0; e < num_experts; ++e)
            if (work.rows.span(e).count() > 1) return false;
        return true;
    };
    return tokens == 1 && std::all_of(works, works + count, is_small);
}

const Item* item_at(const std::vector<Item>& items, int64_t index) {
    return index < 0 ? nullptr : &items[static_cast<size_t>(index)];
}

void make_room(BankWork& work) {
    work.y = work.results.get<float>(work.rows.count() * result_stride(*work.bank));
}

void hide_all(Runtime& runtime, const Due& due) {
    const auto items = split(due, runtime, kGroupsAtOnce, groups_of);
    runtime.pool.run(static_cast<int64_t>(items.size()), [&](int64_t i, int64_t next) {
        hide(runtime.kernels, *item_at(items, i), item_at(items, next));
    });
}

void lower_all(Runtime& runtime, const Due& due) {
    const auto tiles = [](const Expert& e) { return e.down.layout.tiles; };
    const auto items = split(due, runtime, kTilesAtOnce, tiles);
    runtime.pool.run(static_cast<int64_t>(items.size()), [&](int64_t i, int64_t next) {
        const Item& item = *item_at(items, i);
        lower(runtime.kernels, item, item_at(items, next), item.work->y,
              result_stride(*item.work->bank));
    });
}

// the rows of a work in the forms that its gates and ups want; each token is rounded once, however
// many experts it goes to
void fill_input(Runtime& runtime, BankWork& work, const float* normed, int64_t tokens,
                int64_t columns) {
    const Forms forms = work.bank->input;
    const Span singles(0, tokens, 1);
    work.tokens.resize(tokens, columns, forms, normed);
    runtime.pool.run(tokens, [&](int64_t token) {
        work.tokens.fill(runtime.kernels, singles, token, normed + token * columns);
    });
    work.input.resize(work.rows.count(), columns, forms);
    struct Part {
        const Span* span;
        int64_t panel;
    };
    std::vector<Part> parts;
    for (size_t e = 0; e < work.bank->experts.size(); ++e) {
        const Span& span = work.rows.span(static_cast<int64_t>(e));
        if (is_alone(span)) continue;
        for (int64_t panel = 0; panel < span.panels(); ++panel) parts.push_back({&span, panel});
    }
    // a panel an item, as for_rows has it
    runtime.pool.run(static_cast<int64_t>(parts.size()), [&](int64_t i) {
        const auto& [span, panel] = parts[static_cast<size_t>(i)];
        const int32_t* tokens = work.rows.tokens(span->first() + span->begin(panel));
        work.input.copy(*span, panel, work.tokens, tokens);
    });
}

}  // namespace

void Bank::put(size_t expert, const Matrix& gate, const Matrix& up, const Matrix& down) {
    experts[expert].gate = gate, experts[expert].up = up, experts[expert].down = down;
    input.add(gate.format), input.add(up.format), hidden.add(down.format);
}

void SortedRows::sort(const Choice& choice, int64_t tokens, int64_t num_experts, int max_rows) {
    const int64_t slots = tokens * choice.num_chosen;
    std::vector<int64_t> first(static_cast<size_t>(num_experts) + 1, 0);
    for (int64_t s = 0; s < slots; ++s)
        if (choice.ids[s] != kEmpty) ++first[choice.ids[s] + 1];
    spans_.clear();
    for (int64_t e = 0; e < num_experts; ++e) {
        spans_.emplace_back(first[e], first[e + 1], max_rows);
        first[e + 1] += first[e];
    }
    token_.resize(static_cast<size_t>(first[num_experts]));
    place_.resize(static_cast<size_t>(slots));
    for (int64_t s = 0; s < slots; ++s) {
        if (choice.ids[s] == kEmpty) continue;
        const int64_t place = first[choice.ids[s]]++;
        token_[place] = static_cast<int32_t>(s / choice.num_chosen);
        place_[s] = place;
    }
}

void foresee(Pool& pool, const Bank& bank, const Bank* shared, const Choice& choice,
             int64_t tokens) {
    std::vector<bool> is_chosen(bank.experts.size());
    for (int64_t s = 0; s < tokens * choice.num_chosen; ++s) is_chosen[choice.ids[s]] = true;
    std::vector<const Expert*> experts;
    for (size_t e = 0; e < is_chosen.size(); ++e)
        if (is_chosen[e]) experts.push_back(&bank.experts[e]);
    if (shared != nullptr) experts.push_back(&shared->experts.front());
    foresee_hide(pool, experts);
}

void gather(Runtime& runtime, BankWork* works, int count, const float* normed, int64_t tokens,
            int64_t columns) {
    for (int w = 0; w < count; ++w) {
        BankWork& work = works[w];
        const auto num_experts = static_cast<int64_t>(work.bank->experts.size());
        work.rows.sort(work.choice, tokens, num_experts, runtime.kernels.max_rows);
        fill_input(runtime, work, normed, tokens, columns);
        work.hidden.resize(work.rows.count(), work.bank->width(), work.bank->hidden);
    }
}

void compute(Runtime& runtime, BankWork& work, const std::vector<int32_t>& experts) {
    Due due;
    for (const int32_t expert : experts)
        if (work.rows.span(expert).panels() > 0) due.emplace_back(&work, expert);
    make_room(work);
    hide_all(runtime, due);
    lower_all(runtime, due);
}

int64_t num_rows(const BankWork& work, const std::vector<int32_t>& experts) {
    int64_t count = 0;
    for (const int32_t expert : experts) count += work.rows.span(expert).count();
    return count;
}

void copy_rows(const BankWork& work, const std::vector<int32_t>& experts, const float* normed,
               int64_t columns, float* x) {
    for (const int32_t expert : experts) {
        const Span& span = work.rows.span(expert);
        for (int64_t row = 0; row < span.count(); ++row, x += columns)
            std::copy_n(normed + *work.rows.tokens(span.first() + row) * columns, columns, x);
    }
}

void put_results(BankWork& work, const std::vector<int32_t>& experts, const float* y,
                 int64_t columns) {
    make_room(work);
    const int64_t stride = result_stride(*work.bank);
    for (const int32_t expert : experts) {
        const Span& span = work.rows.span(expert);
        for (int64_t row = 0; row < span.count(); ++row, y += columns)
            std::copy_n(y, columns, work.y + (span.first() + row) * stride);
    }
}

void combine(Runtime& runtime, BankWork* works, int count, int64_t tokens, float* x,
             int64_t columns) {
    runtime.pool.run(tokens, [&](int64_t t) {
        combine(runtime.kernels, works, count, t, columns, x + t * columns);
    });
}

void feed_forward(Runtime& runtime, BankWork* works, int count, const float* normed,
                  int64_t tokens, float* x, int64_t columns) {
    gather(runtime, works, count, normed, tokens, columns);
    const bool is_single = is_one(works, count, tokens);
    if (is_single) foresee_lower(runtime.pool, works[0]);
    else runtime.pool.foresight().forget();
    const Due all = all_of(works, count);
    hide_all(runtime, all);
    if (is_single) return lower_one(runtime, works, count, columns, x);
    for (int w = 0; w < count; ++w) make_room(works[w]);
    lower_all(runtime, all);
    combine(runtime, works, count, tokens, x, columns);
}

}  // namespace expertly
