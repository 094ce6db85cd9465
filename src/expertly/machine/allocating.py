"""How the C library's allocator treats memory that is freed and soon wanted again."""

import ctypes

# of glibc's malloc.h, and the most that it takes for the first
_MMAP_THRESHOLD, _MMAP_BYTES = -3, 32 << 20
_TRIM_THRESHOLD, _TRIM_BYTES = -1, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """From now on the process keeps up to 2 GiB that it frees, for what it allocates next.

    Training frees each step's activations and gradients and wants as much again; given back to
    the system, every page of it would be cleared and mapped anew (a tenth of a mixture layer's
    time). False where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    done = [mallopt(_MMAP_THRESHOLD, _MMAP_BYTES), mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)]
    return all(done)
