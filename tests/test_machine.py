"""What is asked of the system."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from ownship import machine


def fresh() -> torch.Tensor:
    """256 MB from the system itself: the allocator could hand out what is resident already."""
    return torch.frombuffer(mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives memory in advance")
def test_reserved_memory_is_there() -> None:
    tensor = fresh()
    before = resident()
    machine.reserve([tensor]).join()
    assert resident() - before > 250 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes memory back")
def test_memory_that_is_given_back() -> None:
    tensors = torch.ones(128 << 20, dtype=torch.uint8), torch.ones(100, dtype=torch.uint8)
    before = resident()
    machine.give_back(tensors)
    assert before - resident() > 120 << 20
    tensors[0].fill_(3)  # it is still there to be written
    assert int(tensors[0].min()) == 3 and tensors[1].all()  # what shares its pages with others is left alone


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives memory in advance")
def test_memory_that_is_not_there_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 500 << 20)
    tensor = fresh()
    before = resident()
    machine.reserve([tensor]).join()
    assert resident() - before < 10 << 20
