"""Arrays that end, to the byte, where memory does: to touch what follows kills the process."""

import ctypes
import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0
_LIBC = ctypes.CDLL(None, use_errno=True)


def guarded(values: NDArray, align: int = 1) -> NDArray:
    """A copy of `values` before an inaccessible page, and behind one as near as it gets.

    With `align` a start at a multiple of so many bytes, for which its size is a multiple too.
    """
    size = values.nbytes
    assert size % align == 0, (size, align)
    num_pages = -(-size // _PAGE)
    # anonymous memory that lives as long as the array that is made of it
    pages = mmap.mmap(-1, (num_pages + 2) * _PAGE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    for at in (first, first + (num_pages + 1) * _PAGE):
        if _LIBC.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(_PAGE), _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")
    begin = (num_pages + 1) * _PAGE - size
    array = np.frombuffer(pages, values.dtype, values.size, begin).reshape(values.shape)
    array[...] = values
    return array


def poisoned(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """Guarded room for results, NaN until it is written."""
    return guarded(np.full(shape, np.nan, dtype))
