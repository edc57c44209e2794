"""Settings of this process that make the same arithmetic faster. To be called before the first tensor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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


def trim() -> None:
    """Gives memory that nobody uses any more back to the system, where the C library can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reserve(tensors: Sequence[Tensor]) -> threading.Thread:
    """Has the system give these tensors' memory now, in the background while it is idle; else it does when a page is first
    written, which costs whoever writes first (an eighth of the time of 64 streams, docs/log.md)."""

    def populate() -> None:
        if sys.platform != "linux" or sum(tensor.nbytes for tensor in tensors) > available_memory() // 2:
            return
        with contextlib.suppress(OSError, AttributeError):  # an old kernel, or a system without the call
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # this thread only
            madvise, populate_write, piece = ctypes.CDLL(None).madvise, 23, 16 << 20  # since Linux 5.14
            for tensor in tensors:
                begin = -(-tensor.data_ptr() // 4096) * 4096
                end = (tensor.data_ptr() + tensor.nbytes) // 4096 * 4096
                for at in range(begin, end, piece):
                    if madvise(ctypes.c_void_p(at), ctypes.c_size_t(min(piece, end - at)), populate_write):
                        return

    thread = threading.Thread(target=populate, name="reserve", daemon=True)
    thread.start()
    return thread


def available_memory() -> int:
    """Bytes that programs can still have; 0 if the system does not say."""
    if sys.platform != "linux":
        return 0
    with open("/proc/meminfo") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable")), 0)


class Heap:
    """Gives memory that nobody uses back to the system, now and then. Steps of unequal lengths leave the heap full of holes: a run
    of 46 steps grew from 5 to 10 GB (docs/log.md). What is given back has to be cleared again by the kernel, so not every time:
    when the process is a seventh larger than after its first step."""

    def __init__(self) -> None:
        self._limit = 0.0  # resident pages
        self._again = False

    def tidy(self) -> None:
        """To be called between steps."""
        if sys.platform != "linux":
            return
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1])
        if not self._limit or (self._again and resident > self._limit):  # if a single step takes that much, it is needed
            self._limit = 1.15 * resident
        self._again = resident > self._limit
        if self._again:
            trim()


def peak_memory_mb() -> int:
    """The largest resident size so far of this process or any one that it has waited for, in MiB."""
    import resource

    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
