#include "weights.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <algorithm>

#include "../pack.h"
#include "../plain_floats.h"
#include "bind.h"

namespace expertly {

namespace {

Layout checked_layout(Format format, int64_t rows, int64_t columns) {
    constexpr int64_t kMost = int64_t{1} << 30;  // so that sizes in bytes are 64-bit numbers
    require(rows > 0 && columns > 0, "a matrix needs rows and columns");
    require(rows <= kMost && columns <= kMost, "a matrix of more rows or columns than there are");
    const int size = block_of(format).size;
    require(size != kSuper || columns % size == 0, "columns are no whole super-blocks");
    return layout_of(format, rows, columns);
}

int64_t layout_bytes(const std::string& format, int64_t rows, int64_t columns) {
    return checked_layout(format_of(format), rows, columns).num_bytes();
}

Weights view(const std::string& name, int64_t rows, int64_t columns,
             std::shared_ptr<Buffer> buffer, int64_t offset) {
    const Format format = format_of(name);
    const Layout layout = checked_layout(format, rows, columns);
    require(offset >= 0 && offset % 64 == 0, "a matrix begins at a multiple of 64 bytes");
    require(static_cast<uint64_t>(layout.num_bytes()) <= buffer->size() &&
                static_cast<uint64_t>(offset) <= buffer->size() - layout.num_bytes(),
            "a matrix ends beyond its buffer");
    return Weights{Matrix{format, layout, buffer->data() + offset}, buffer};
}

Weights make(const std::string& name, int64_t rows, int64_t columns) {
    const int64_t size = layout_bytes(name, rows, columns);
    return view(name, rows, columns, std::make_shared<Buffer>(static_cast<size_t>(size)), 0);
}

void pack(Weights& self, const Bytes& blocks, int64_t first) {
    const Layout& layout = self.matrix.layout;
    const int64_t stride = row_bytes(self.matrix.format, layout.columns);
    const int64_t size = static_cast<int64_t>(blocks.size());
    require(size % stride == 0, "blocks are no whole rows");
    const int64_t count = size / stride;
    require(first >= 0 && first % kTileRows == 0 && count <= layout.rows - first,
            "rows begin inside a tile or end beyond the matrix");
    require(count % kTileRows == 0 || first + count == layout.rows, "rows end inside a tile");
    const nb::gil_scoped_release release;
    pack_rows(layout, self.matrix.format, blocks.data(), first, count,
              const_cast<uint8_t*>(self.matrix.data));
}

NewRows unpack(const Weights& self, int64_t first, int64_t count) {
    const Layout& layout = self.matrix.layout;
    require(first >= 0 && count >= 0 && count <= layout.rows - first, "rows beyond the matrix");
    NewRows rows = new_rows(static_cast<size_t>(count), static_cast<size_t>(layout.columns));
    const nb::gil_scoped_release release;
    const PlainFloats floats;
    for (int64_t i = 0; i < count; ++i)
        unpack_row(self.matrix, first + i, rows.data() + i * layout.columns);
    return rows;
}

}  // namespace

void bind_weights(nb::module_& module) {
    nb::class_<Buffer>(module, "Buffer")
        .def(nb::init<size_t>(), nb::arg("num_bytes"))
        .def_prop_ro("num_bytes", &Buffer::size)
        .def("array", [](std::shared_ptr<Buffer> self) {
            // the array keeps the buffer alive
            auto* keep = new std::shared_ptr<Buffer>(self);
            nb::capsule owner(keep, [](void* p) noexcept {
                delete static_cast<std::shared_ptr<Buffer>*>(p);
            });
            return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(self->data(), {self->size()}, owner);
        });
    nb::class_<Weights>(module, "Matrix")
        .def(nb::new_(&make), nb::arg("format"), nb::arg("rows"), nb::arg("columns"))
        .def_static("view", &view, nb::arg("format"), nb::arg("rows"), nb::arg("columns"),
                    nb::arg("buffer"), nb::arg("offset"))
        .def_prop_ro("format", [](const Weights& w) { return block_of(w.matrix.format).name; })
        .def_prop_ro("rows", [](const Weights& w) { return w.matrix.layout.rows; })
        .def_prop_ro("columns", [](const Weights& w) { return w.matrix.layout.columns; })
        .def_prop_ro("num_bytes", [](const Weights& w) { return w.matrix.layout.num_bytes(); })
        .def("pack", &pack, nb::arg("blocks"), nb::arg("first_row") = 0)
        .def("unpack", &unpack, nb::arg("first_row"), nb::arg("num_rows"));
    module.def("layout_bytes", &layout_bytes, nb::arg("format"), nb::arg("rows"),
               nb::arg("columns"));
}

}  // namespace expertly
