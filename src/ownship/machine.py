"""Settings of this process that make the same arithmetic faster. To be called before the first tensor."""

from __future__ import annotations

import ctypes
import os
import sys


def prepare() -> None:
    """Lets the allocator keep what it has: a training step frees and takes gigabytes, and without this the kernel clears
    each page anew (a third of a step's time, docs/log.md). Does nothing where the C library is not glibc."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch: large pages for large tensors
    if sys.platform != "linux":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_threshold, 32 << 20)  # the most glibc takes; larger blocks still go back to the kernel
    mallopt(trim_threshold, 512 << 20)
    mallopt(top_pad, 64 << 20)


def peak_memory_mb() -> int:
    """The largest resident size so far of this process or any one that it has waited for, in MiB."""
    import resource

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
