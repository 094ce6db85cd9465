#include "buffer.h"

#include <sys/mman.h>

#include <new>

namespace expertly {

Buffer::Buffer(size_t num_bytes) : size_(num_bytes) {
    void* at = mmap(nullptr, num_bytes ? num_bytes : 1, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<uint8_t*>(at);
#ifdef MADV_HUGEPAGE
    // fewer misses of the address cache; where it is not offered nothing is lost
    if (num_bytes >= (size_t{4} << 20)) madvise(at, num_bytes, MADV_HUGEPAGE);
#endif
}

Buffer::~Buffer() { munmap(data_, size_ ? size_ : 1); }

Scratch::~Scratch() { delete buffer_; }

void* Scratch::room(size_t num_bytes) {
    if (buffer_ == nullptr || buffer_->size() < num_bytes) {
        delete buffer_;
        buffer_ = nullptr;
        buffer_ = new Buffer(num_bytes + num_bytes / 4);
    }
    return buffer_->data();
}

}  // namespace expertly
