"""Training in several processes, which torchrun started. In one process every function here just does the work.

The ranks are alike: each reads the same data, makes the same decisions and ends each step with the same weights. They differ in
three things only: the tasks they play (`shared`), the micro-batches they read (`rounds`), and the part of the float32 weights and
moments that they keep (learn/sharded.py). So nothing else needs to know of ranks, and a run gives the same in any number of them.
The first rank speaks and writes. torch.distributed is imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ownship.errors import UserError
from ownship.learn.interrupt import Interrupted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")

_SLOW = timedelta(days=1)  # a rank that only takes long must not end a run; one that died is noticed by its closed connection
_rank, _size = 0, 1
_joined = False


@contextmanager
def session() -> Iterator[None]:
    """Inside, this process is one of those that torchrun started, if it did so. Only the first one prints.

    If any fails, all end, and one of them says why: the error is raised in the one that failed first.
    """
    global _rank, _size, _joined
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    place = device()
    if place.type == "cuda":
        import torch

        torch.cuda.set_device(place)
    store, _rank, _size = next(rendezvous("env://"))
    backends = "gloo" if place.type == "cpu" else f"cpu:gloo,{place.type}:{dist.get_default_backend_for_device(place)}"
    dist.init_process_group(backends, store=store, rank=_rank, world_size=_size, timeout=_SLOW)
    _joined = True
    with ExitStack() as stack:
        if _rank:
            silent = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(silent))
            stack.enter_context(redirect_stderr(silent))
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if not _first_to_fail(store):
                os._exit(1)  # this error only follows from that of another rank, which tells of it
            if _lost(error):
                raise UserError("a process of this training ended without a word (killed, or out of memory?):"
                                " the same command goes on from the last checkpoint") from None
            raise
        dist.destroy_process_group()
    _rank, _size = 0, 1


def _first_to_fail(store: Any) -> bool:
    try:
        return store.add("ownship/failed", 1) == 1
    except RuntimeError:  # whoever kept the store has ended
        return False


def _lost(error: BaseException) -> bool:
    """Whether a connection to another rank broke."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def device() -> torch.device:
    """Where this rank computes: its own GPU, or the processor."""
    import torch

    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def several() -> bool:
    return _size > 1


def joined() -> bool:
    """Whether this process is or was one of several."""
    return _joined


def first() -> bool:
    """Whether this is the rank that writes files."""
    return _rank == 0


def rounds(items: Sequence[A]) -> list[A | None]:
    """This rank's share of what is done side by side: equally many everywhere, None where nothing is left."""
    return [items[at + _rank] if at + _rank < len(items) else None for at in range(0, len(items), _size)]


def shared(items: Sequence[A], work: Callable[..., Sequence[B]]) -> list[B]:
    """`work(stretch, first=at)` on all items, each rank on a stretch of them, which begins `at` that item. All get all results.

    Raises Interrupted in all ranks if it was raised in any.
    """
    if _size == 1:
        return list(work(items, first=0))
    begin, end = (len(items) * at // _size for at in (_rank, _rank + 1))
    mine: Sequence[B] | None
    try:
        mine = work(items[begin:end], first=begin)
    except Interrupted:
        mine = None
    results: list[B] = []
    for part in _gathered(mine):
        if part is None:
            raise Interrupted
        results += part
    return results


def together(work: Callable[[], object]) -> None:
    """Does the work. Raises Interrupted in all ranks if it was raised in any."""
    if _size == 1:
        work()
        return
    import torch
    import torch.distributed as dist

    stopped = torch.zeros((), dtype=torch.int32)
    try:
        work()
    except Interrupted:
        stopped += 1
    dist.all_reduce(stopped)
    if stopped:
        raise Interrupted


def first_then_all(work: Callable[[], A]) -> A:
    """The first rank does the work before the others do: they find what it left."""
    if _size == 1:
        return work()
    import torch.distributed as dist

    if first():
        done = work()
        dist.barrier()
        return done
    dist.barrier()
    return work()


def from_first(value: A) -> A:
    """The first rank's value: for what ranks could see differently, such as clocks and files."""
    return value if _size == 1 else _gathered(value if first() else None)[0]  # type: ignore[return-value]


def added(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums of all ranks; a name may be missing in some."""
    if _size == 1:
        return dict(sums)
    total: dict[str, float] = {}
    for part in _gathered(dict(sums)):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def add_gradients(params: Sequence[Tensor]) -> None:
    """Gives every rank the sum of all ranks' gradients of these tensors, which each of them has whole."""
    import torch
    import torch.distributed as dist

    grads = [param.grad for param in params if param.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def equal(fingerprint: str) -> None:
    """Raises RuntimeError if the ranks' weights are not the same: they would teach each other nonsense from here on."""
    if _size > 1 and len(found := set(_gathered(fingerprint))) > 1:
        raise RuntimeError(f"the ranks hold different weights: {', '.join(sorted(found))}")


def _gathered(value: B) -> list[B]:
    """Every rank's value, in their order."""
    import torch.distributed as dist

    parts: list[Any] = [None] * _size
    dist.all_gather_object(parts, value)
    return parts

