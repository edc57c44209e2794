"""Every test of the store runs on SQLite and on PostgreSQL, each with a new database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
import sqlalchemy as sa

from ownship.store import database
from ownship.store.store import Store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return postgres.empty(request.getfixturevalue("postgres_server"))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    engine = database.connect(url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url)
    yield store
    store.close()
