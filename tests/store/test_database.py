"""Opening a database: migrations, several processes at once, what cannot be opened, and what the ledger refuses."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ownship.errors import UserError
from ownship.store import database, schema

LEDGER = ("INSERT INTO ledger (time, request, key, team, asked, upstream, model, prompt, completion, cached, reasoning, tokens,"
          " cost, status, hit) VALUES (1, 'r', 1, 1, 'm', 'u', 'm', 1, 1, 0, 0, 2, 5, 'ok', false)")


def test_migrations_make_the_tables(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        assert database.revision(connection) == schema.HEAD
    config = Config()
    config.set_main_option("script_location", "ownship.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_down_and_up_again(engine: sa.Engine) -> None:
    database.migrate(engine, "here", "base")
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]
    database.migrate(engine, "here")
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version", *schema.metadata.tables}


def test_a_migration_that_fails_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.operations import Operations

    def broken(*_: object) -> None:
        raise RuntimeError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(Operations, "bulk_insert", broken)
        with pytest.raises(RuntimeError):
            database.connect(url)
    engine = database.connect(url)
    with engine.connect() as connection:
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version", *schema.metadata.tables}
    engine.dispose()


def test_many_open_an_empty_database_at_once(url: str) -> None:
    script = f"from ownship.store import database; database.connect({url!r})"
    started = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    engine = database.connect(url)
    with engine.connect() as connection:
        assert database.revision(connection) == schema.HEAD
        assert connection.execute(sa.select(schema.cache_size.c.bytes)).scalars().all() == [0]
    engine.dispose()


def test_a_newer_database_is_left_alone(url: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UserError, match="newer ownship"):
        database.connect(url)


@pytest.mark.parametrize("change", ["UPDATE ledger SET cost = 0", "DELETE FROM ledger", "UPDATE ledger SET cost = 0 WHERE id = 1",
                                    "DELETE FROM ledger WHERE status = 'ok'", "TRUNCATE ledger"])
def test_the_ledger_is_append_only(engine: sa.Engine, change: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(LEDGER))
    refused = "syntax error" if change.startswith("TRUNCATE") and engine.dialect.name == "sqlite" else "append-only"
    with pytest.raises(sa.exc.DBAPIError, match=refused), engine.begin() as connection:
        connection.execute(sa.text(change))
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT cost FROM ledger")).scalars().all() == [5]


def test_reserved_is_never_negative(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="balances_reserved"), engine.begin() as connection:
        connection.execute(sa.insert(schema.balances).values(id="x", money=0, tokens=0, reserved_money=-1, reserved_tokens=0))


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OWNSHIP_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert database.default() == str(tmp_path / "data" / "ownship" / "store.db")
    database.connect(database.default()).dispose()
    assert stat.S_IMODE((tmp_path / "data" / "ownship" / "store.db").stat().st_mode) == 0o600
    monkeypatch.delenv("XDG_DATA_HOME")
    assert database.default() == str(Path.home() / ".local" / "share" / "ownship" / "store.db")
    monkeypatch.setenv("OWNSHIP_STORE", "postgresql://here/store")
    assert database.default() == "postgresql://here/store"


@pytest.mark.parametrize(("url", "words"), [
    ("mysql://h/x", "mysql"), ("sqlite://", "memory"), ("sqlite:///:memory:", "memory"), ("://", "--store"),
    ("postgresql+nodriver://h/x", "ownship[postgres]"), ("postgresql://me:canary@127.0.0.1:1/x", "me:***@127.0.0.1:1/x"),
    ("/proc/none/store.db", "OWNSHIP_STORE")])
def test_what_cannot_be_opened(url: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        database.connect(url)
    assert words in str(raised.value)
    assert "canary" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("hello " * 1000)
    with pytest.raises(UserError, match="not a database"):
        database.connect(str(file))
    assert file.read_text() == "hello " * 1000
