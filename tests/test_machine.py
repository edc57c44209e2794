"""What is asked of the system."""

from __future__ import annotations

import sys

import pytest
import torch

from ownship import machine


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives memory in advance")
def test_reserved_memory_is_there() -> None:
    tensor = torch.empty(256 << 20, dtype=torch.uint8)
    before = resident()
    machine.reserve([tensor]).join()
    assert resident() - before > 250 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives memory in advance")
def test_memory_that_is_not_there_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 500 << 20)
    tensor = torch.empty(256 << 20, dtype=torch.uint8)
    before = resident()
    machine.reserve([tensor]).join()
    assert resident() - before < 10 << 20
