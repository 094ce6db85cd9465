#include "attention.h"

#include <algorithm>
#include <atomic>
#include <limits>

namespace expertly {

namespace {

// query rows that share the keys and values of an item: their scores stay in the second-level
// cache, and turning pages into float32 is a small part of the work
constexpr int64_t kBlockRows = 64;
constexpr int64_t kItemsAThread = 4;
// what partial results of chunks may take, when these are spread over threads
constexpr int64_t kPartBytes = int64_t{64} << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// cache-line aligned floats, not zeroed
class Room {
public:
    explicit Room(int64_t count) : data_(new float[static_cast<size_t>(count) + 16]) {}
    float* begin() const {
        const auto at = reinterpret_cast<uintptr_t>(data_.get());
        return data_.get() + (64 - at % 64) % 64 / sizeof(float);
    }

private:
    std::unique_ptr<float[]> data_;
};

struct Call {
    const Kernels& kernels;
    const AttentionShape& shape;
    const float* q;
    int64_t q_stride;
    const int32_t* sequence;
    const int32_t* position;
    const int32_t* pages;
    int64_t pages_a_sequence;
    const PagePool& pool;
    int64_t layer;
    float* y;
    int64_t y_stride;

    int64_t heads_a_group() const { return shape.heads / shape.groups; }
    int64_t begin_of(int64_t t) const {
        return shape.window > 0 ? std::max(0, position[t] - shape.window + 1) : 0;
    }
    int64_t end_of(int64_t t) const { return int64_t{position[t]} + 1; }
};

// rows [first, first + count) of one sequence and the chunks that they see
struct Block {
    int64_t first, count;
    int64_t begin_chunk, end_chunk;
};

struct Item {
    const Block* block;
    int64_t group;
    int64_t begin_chunk, end_chunk;
    float* parts;  // where partial results go; null: results are whole and go to y
};

Block make_block(const Call& call, int64_t first, int64_t count) {
    int64_t begin = call.begin_of(first), end = call.end_of(first);
    for (int64_t t = first; t < first + count; ++t) {
        begin = std::min(begin, call.begin_of(t));
        end = std::max(end, call.end_of(t));
    }
    return {first, count, begin / kChunkSize, ceil_div(end, kChunkSize)};
}

std::vector<Block> make_blocks(const Call& call, int64_t count) {
    const int64_t most = std::max<int64_t>(1, kBlockRows / call.heads_a_group());
    std::vector<Block> blocks;
    for (int64_t first = 0; first < count;) {
        int64_t n = 1;
        while (n < most && first + n < count && call.sequence[first + n] == call.sequence[first])
            ++n;
        blocks.push_back(make_block(call, first, n));
        first += n;
    }
    return blocks;
}

// a thread's memory for items of up to `rows` rows
class Worker {
public:
    Worker(const Call& call, int64_t rows)
        : call_(call),
          q_(static_cast<size_t>(rows)),
          begin_(static_cast<size_t>(rows)),
          end_(static_cast<size_t>(rows)),
          width_(part_width(call.shape.head_size)),
          room_(2 * rows * width_ + chunk_room(rows, call.shape.head_size)) {
        chunk_.head_size = call.shape.head_size;
        chunk_.scale = call.shape.scale;
        chunk_.values = int64_t{call.shape.groups} * kPageSize * chunk_.head_size * 2;
        chunk_.q = q_.data();
        chunk_.begin = begin_.data();
        chunk_.end = end_.data();
        whole_ = room_.begin();
        part_ = whole_ + rows * width_;
        chunk_.room = part_ + rows * width_;
    }

    void run(const Item& item) {
        const int64_t rows = item.block->count * call_.heads_a_group();
        float* whole = item.parts ? item.parts : whole_;
        place_queries(item);
        for (int64_t at = item.begin_chunk; at < item.end_chunk; ++at) {
            const bool is_first = at == item.begin_chunk;
            chunk_.parts = is_first ? whole : part_;
            place_chunk(item, at);
            call_.kernels.attention.chunk(chunk_);
            if (is_first) continue;
            for (int64_t r = 0; r < rows; ++r) merge(part_ + r * width_, whole + r * width_);
        }
        if (!item.parts) finish(item, whole);
    }

    // the parts of a block's chunks, one after the other, to y
    void gather(const Item& item, int64_t chunks) {
        const int64_t rows = item.block->count * call_.heads_a_group();
        for (int64_t i = rows; i < chunks * rows; ++i)
            merge(item.parts + i * width_, item.parts + i % rows * width_);
        finish(item, item.parts);
    }

private:
    void merge(const float* part, float* into) const {
        call_.kernels.attention.merge(part, chunk_.head_size, into);
    }

    void place_queries(const Item& item) {
        const int64_t heads = call_.heads_a_group(), C = chunk_.head_size;
        chunk_.rows = item.block->count * heads;
        for (int64_t r = 0; r < chunk_.rows; ++r) {
            const int64_t t = item.block->first + r / heads, head = item.group * heads + r % heads;
            q_[static_cast<size_t>(r)] = call_.q + t * call_.q_stride + head * C;
        }
    }

    void place_chunk(const Item& item, int64_t at) {
        const int64_t heads = call_.heads_a_group(), first = at * kChunkSize;
        int32_t lowest = kChunkSize, highest = 0;
        for (int64_t r = 0; r < chunk_.rows; ++r) {
            const int64_t t = item.block->first + r / heads;
            const auto inside = [first](int64_t p) {
                return static_cast<int32_t>(std::clamp<int64_t>(p - first, 0, kChunkSize));
            };
            const int32_t begin = inside(call_.begin_of(t)), end = inside(call_.end_of(t));
            begin_[static_cast<size_t>(r)] = begin, end_[static_cast<size_t>(r)] = end;
            if (begin < end) lowest = std::min(lowest, begin), highest = std::max(highest, end);
        }
        const int64_t sequence = call_.sequence[item.block->first];
        const int32_t* table = call_.pages + sequence * call_.pages_a_sequence;
        for (int64_t i = 0; i < kChunkPages; ++i) {
            const bool is_seen = i * kPageSize < highest && (i + 1) * kPageSize > lowest;
            chunk_.pages[i] = is_seen ? keys_of(table[at * kChunkPages + i], item.group) : nullptr;
        }
    }

    const uint8_t* keys_of(int64_t page, int64_t group) const {
        return call_.pool.part(page, call_.layer) + group * kPageSize * chunk_.head_size * 2;
    }

    void finish(const Item& item, const float* parts) const {
        const int64_t heads = call_.heads_a_group(), C = chunk_.head_size;
        const std::vector<float>& sinks = call_.shape.sinks;
        for (int64_t r = 0; r < item.block->count * heads; ++r) {
            const int64_t t = item.block->first + r / heads, head = item.group * heads + r % heads;
            const float none = -std::numeric_limits<float>::infinity();
            const float sink = sinks.empty() ? none : sinks[static_cast<size_t>(head)];
            call_.kernels.attention.finish(parts + r * width_, sink, C,
                                           call_.y + t * call_.y_stride + head * C);
        }
    }

    const Call& call_;
    std::vector<const float*> q_;
    std::vector<int32_t> begin_, end_;
    int64_t width_;
    Room room_;
    AttentionChunk chunk_{};
    float* whole_;
    float* part_;
};

// work(worker, item) for every item, a worker a thread
template <class Work>
void share(Runtime& runtime, const Call& call, int64_t rows, int64_t items, const Work& work) {
    std::atomic<int64_t> next{0};
    const int64_t workers = std::min<int64_t>(runtime.pool.threads(), items);
    runtime.pool.run(workers, [&](int64_t) {
        Worker worker(call, rows);
        for (int64_t i; (i = next.fetch_add(1)) < items;) work(worker, i);
    });
}

// how much of the work is apart: one item a block and group, or one a chunk of each
struct Plan {
    std::vector<Block> blocks;
    int64_t rows = 0;        // of the largest block
    int64_t part_floats = 0;  // of all chunks
    int64_t most_chunks = 0;

    Plan(const Call& call, int64_t count) : blocks(make_blocks(call, count)) {
        for (const Block& block : blocks) {
            const int64_t chunks = block.end_chunk - block.begin_chunk;
            const int64_t size = block.count * call.heads_a_group();
            rows = std::max(rows, size);
            most_chunks = std::max(most_chunks, chunks);
            part_floats += size * chunks * call.shape.groups * part_width(call.shape.head_size);
        }
    }
};

void by_blocks(Runtime& runtime, const Call& call, const Plan& plan) {
    const int64_t items = static_cast<int64_t>(plan.blocks.size()) * call.shape.groups;
    share(runtime, call, plan.rows, items, [&](Worker& worker, int64_t i) {
        // the last ones of a prompt see most: they go first
        const int64_t at = items - 1 - i;
        const Block& block = plan.blocks[static_cast<size_t>(at / call.shape.groups)];
        worker.run({&block, at % call.shape.groups, block.begin_chunk, block.end_chunk, nullptr});
    });
}

void by_chunks(Runtime& runtime, const Call& call, const Plan& plan) {
    const Room parts(plan.part_floats);
    std::vector<Item> items, wholes;
    float* at = parts.begin();
    for (const Block& block : plan.blocks)
        for (int64_t g = 0; g < call.shape.groups; ++g) {
            wholes.push_back({&block, g, block.begin_chunk, block.end_chunk, at});
            for (int64_t c = block.begin_chunk; c < block.end_chunk; ++c) {
                items.push_back({&block, g, c, c + 1, at});
                at += block.count * call.heads_a_group() * part_width(call.shape.head_size);
            }
        }
    share(runtime, call, plan.rows, static_cast<int64_t>(items.size()),
          [&](Worker& worker, int64_t i) { worker.run(items[static_cast<size_t>(i)]); });
    share(runtime, call, plan.rows, static_cast<int64_t>(wholes.size()),
          [&](Worker& worker, int64_t i) {
              const Item& item = wholes[static_cast<size_t>(i)];
              worker.gather(item, item.end_chunk - item.begin_chunk);
          });
}

}  // namespace

void attend(Runtime& runtime, const AttentionShape& shape, const float* q, int64_t q_stride,
            const int32_t* sequence, const int32_t* position, int64_t count, const int32_t* pages,
            int64_t pages_a_sequence, const PagePool& pool, int64_t layer, float* y,
            int64_t y_stride) {
    const Call call{runtime.kernels, shape, q,    q_stride, sequence, position,
                    pages, pages_a_sequence, pool, layer,    y,        y_stride};
    const Plan plan(call, count);
    const int64_t items = static_cast<int64_t>(plan.blocks.size()) * shape.groups;
    const int64_t threads = runtime.pool.threads();
    const bool is_apart = threads > 1 && plan.most_chunks > 1 && items < kItemsAThread * threads &&
                          plan.part_floats * 4 <= kPartBytes;
    if (is_apart) by_chunks(runtime, call, plan);
    else by_blocks(runtime, call, plan);
}

}  // namespace expertly
