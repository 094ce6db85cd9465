// Memory for weights and scratch: page-aligned, zeroed, on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace expertly {

class Buffer {
public:
    // throws std::bad_alloc
    explicit Buffer(size_t num_bytes);
    ~Buffer();
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

private:
    uint8_t* data_;
    size_t size_;
};

// memory that grows to the largest size asked for and is then kept; its contents do not survive
class Scratch {
public:
    ~Scratch();
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    template <class T>
    T* get(int64_t count) {
        return static_cast<T*>(room(static_cast<size_t>(count) * sizeof(T)));
    }

private:
    void* room(size_t num_bytes);

    Buffer* buffer_ = nullptr;
};

}  // namespace expertly
