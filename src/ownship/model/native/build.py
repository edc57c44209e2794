"""Compiles the kernels for this very machine, once; what was compiled is kept beside the model cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from ownship.model import zoo

_FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")


class Unavailable(Exception):
    """Why there are no compiled kernels here."""


def library(source: Path) -> ctypes.CDLL:
    """What `compiled` gives. Raises Unavailable, too, if the environment sets OWNSHIP_NATIVE=0."""
    if os.environ.get("OWNSHIP_NATIVE") == "0":
        raise Unavailable("OWNSHIP_NATIVE=0")
    return compiled(source)


@cache
def compiled(source: Path, architecture: str = "native", before: tuple[Path, ...] = ()) -> ctypes.CDLL:
    """A C++ file (and the headers beside it and in this folder) for an architecture as the compiler names it, read after the files
    `before` it (by which tests give it what the processor lacks); `ownship_prepare` in it says whether it can run here.
    Raises Unavailable if there is no compiler that makes it, or it cannot."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise Unavailable("there is no C++ compiler (g++) on this machine")
    shared = Path(__file__).parent
    flags = (*_FLAGS, f"-march={architecture}", *(("-O2",) if before else ()))  # what is emulated is slow anyway
    first = [word for path in before for word in ("-include", str(path))]
    headers = {path for folder in (shared, source.parent) for path in folder.glob("*.h")}
    made_from = [*(path.read_bytes() for path in (source, *sorted(headers), *before)),
                 " ".join(flags).encode(), compiler.encode(), _processor()]
    path = zoo.cache() / f"kernels-{source.stem}-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # moved into place whole: two processes may compile
            made = Path(folder) / path.name
            try:
                done = subprocess.run([compiler, *flags, f"-I{shared}", *first, "-o", made, source], capture_output=True, text=True)
            except OSError as error:
                raise Unavailable(f"{compiler} cannot be run: {error.strerror}") from None
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no reason given"]
                raise Unavailable(f"{compiler} failed: {next((line for line in lines if 'error: ' in line), lines[0])}")
            made.replace(path)
    found = ctypes.CDLL(str(path))
    if not found.ownship_prepare():
        raise Unavailable("the system does not grant the use of AMX")
    return found


def _processor() -> bytes:
    """What the compiler's -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.machine().encode()
    return b"".join(next((line for line in lines if line.startswith(name)), b"") for name in (b"model name", b"flags"))
