"""A URL → an engine on a database whose tables are up to date. SQLite in a file by default, PostgreSQL by URL.

SQLite runs in WAL with synchronous=NORMAL: what was committed outlives the death of the process at any moment; a power failure may
take the last commits, never the consistency. Writers take the lock at the beginning of their transaction (BEGIN IMMEDIATE), so what
they read is what they write on. PostgreSQL runs at READ COMMITTED, and writers lock the rows that they decide on.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from ownship.errors import UserError
from ownship.store import schema

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = 0x6F776E73  # PostgreSQL's advisory lock around migrations
_LOGGER = "ownship"  # of the engine, below sqlalchemy.engine.Engine
_WAIT = 30.0  # seconds that a writer waits for another process's transaction
_SILENT = 60  # seconds after which a PostgreSQL server that says nothing is taken for lost


def default() -> str:
    """$OWNSHIP_STORE, or the file ownship/store.db in the user's data folder ($XDG_DATA_HOME, or ~/.local/share)."""
    said = os.environ.get("OWNSHIP_STORE")
    return said or str(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ownship" / "store.db")


def connect(url: str) -> sa.Engine:
    """An engine on the database at `url` (sqlite:///file, postgresql://…, or the path of an SQLite file), which is made or
    brought up to date if need be. Raises UserError if it cannot be had; a password is never part of the message."""
    # at its debug level SQLAlchemy logs the rows it reads, whoever set that level for whatever reason: replies, hashes of keys
    logging.getLogger(f"sqlalchemy.engine.Engine.{_LOGGER}").setLevel(logging.WARNING)
    target = _target(url)
    shown = target.render_as_string(hide_password=True)
    engine = _sqlite(target) if target.get_backend_name() == "sqlite" else _postgres(target)
    try:
        migrate(engine, shown)
    except DBAPIError as error:
        engine.dispose()
        raise UserError(f"{shown}: the database cannot be used: {reason(error)}") from None
    except UserError:
        engine.dispose()
        raise
    return engine


def writing(engine: sa.Engine) -> contextlib.AbstractContextManager[sa.Connection]:
    """A transaction that means to write; committed at the end of the block, rolled back if it raises."""
    return engine.execution_options(ownship_write=True).begin()


class Turns:
    """Of several processes that write to one SQLite file, one at a time does: SQLite itself looks again only every few
    milliseconds, so those that wait for each other would mostly sleep. Nothing depends on it, and PostgreSQL needs none."""

    def __init__(self, engine: sa.Engine) -> None:
        self._file: int | None = None
        if engine.dialect.name == "sqlite" and fcntl is not None:
            with contextlib.suppress(OSError):
                self._file = os.open(f"{engine.url.database}-turn", os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _target(url: str) -> sa.URL:
    if "://" not in url:
        return sa.URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        target = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--store is the path of an SQLite file, or a URL: sqlite:///file or postgresql://user@host/name") from None
    name = target.get_backend_name()
    if name == "sqlite":
        if not target.database or target.database == ":memory:":
            raise UserError("--store must be a file: a database in memory would not outlive the process")
        return target
    if name not in ("postgresql", "postgres"):
        raise UserError(f"--store {name}://: no such database here; use sqlite:///file or postgresql://user@host/name")
    if target.drivername in ("postgresql", "postgres"):
        target = target.set(drivername="postgresql+pg8000")
    return target


def _sqlite(target: sa.URL) -> sa.Engine:
    file = Path(target.database or "")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable for everyone
    except OSError as error:
        raise UserError(f"{file}: the database cannot be opened ({error.strerror}); --store or OWNSHIP_STORE names another"
                        ) from None
    # hide_parameters: an error's text would otherwise hold what was written
    engine = sa.create_engine(target, hide_parameters=True, logging_name=_LOGGER, connect_args={"timeout": _WAIT})
    _in_one_statement(engine)

    @sa.event.listens_for(engine, "connect")
    def opened(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGINs come too late to lock what is read
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        write = connection.get_execution_options().get("ownship_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgres(target: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(target, hide_parameters=True, logging_name=_LOGGER, isolation_level="READ COMMITTED",
                                  connect_args={"timeout": _SILENT} if target.drivername == "postgresql+pg8000" else {})
    except (ImportError, SQLAlchemyError):
        raise UserError(f"{target.drivername} needs a driver: pip install 'ownship[postgres]'") from None
    _in_one_statement(engine)

    @sa.event.listens_for(engine, "handle_error")
    def failed(context: sa.ExceptionContext) -> Exception | None:
        error = context.original_exception
        if error_fields(error).get("C", "").startswith(("08", "57P")):  # the server shuts down or ended this connection
            context.is_disconnect = True
        if isinstance(error, OSError):  # pg8000 lets these through; all connections of the pool are made anew then
            context.is_disconnect = True
            return OperationalError(None, None, error, hide_parameters=True, connection_invalidated=True)
        return None

    return engine


def error_fields(error: BaseException | None) -> dict[str, str]:
    """The fields of PostgreSQL's message (C: its code, M: its text), as pg8000 hands them over; none for other errors."""
    fields = error.args[0] if error is not None and error.args else None
    return fields if isinstance(fields, dict) else {}


def _in_one_statement(engine: sa.Engine) -> None:
    """Many rows go as one INSERT … VALUES (…), (…): one round trip to PostgreSQL, and one turn without the interpreter's lock
    in SQLite, which an event loop in another thread would otherwise take from the writer at each row."""
    engine.dialect.use_insertmanyvalues_wo_returning = True


def reason(error: DBAPIError) -> str:
    """The driver's own words, in one line, without PostgreSQL's details: those show the row."""
    return " ".join(str(error_fields(error.orig).get("M") or error.orig).split())


@contextlib.contextmanager
def _migrating(engine: sa.Engine) -> Iterator[sa.Connection]:
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
        yield connection


def revision(connection: sa.Connection) -> str | None:
    """Of the database's tables; None if there are none yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: sa.Engine, shown: str, to: str = schema.HEAD) -> None:
    """Brings the tables to a revision, in one transaction; of several processes that try, one does. Raises UserError if a newer
    ownship made them."""
    with engine.connect() as connection:
        if revision(connection) == to:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "ownship.store:migrations")
    with _migrating(engine) as connection:
        known = {script.revision: number for number, script in enumerate(ScriptDirectory.from_config(config).walk_revisions())}
        current = revision(connection)
        if current is not None and current not in known:
            raise UserError(f"{shown}: made by a newer ownship (revision {current}); this one knows {schema.HEAD}: upgrade ownship")
        config.attributes["connection"] = connection
        back = current is not None and (to == "base" or known[to] > known[current])  # walked from the newest to the oldest
        (command.downgrade if back else command.upgrade)(config, to)
