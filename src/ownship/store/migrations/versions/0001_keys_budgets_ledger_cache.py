"""Teams, keys and their secrets, budgets and balances, reservations, the ledger, the cache."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_REFUSED = "the ledger is append-only"


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("created", sa.BigInteger, nullable=False))
    op.create_table(
        "keys",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("team", _id(), sa.ForeignKey("teams.id"), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("models", sa.Text, nullable=False),
        sa.Column("endpoints", sa.Text, nullable=False),
        sa.Column("privacy", sa.String(20), nullable=False),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("cache", sa.Boolean, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger),
        sa.Column("revoked", sa.BigInteger))
    living = sa.text("revoked IS NULL")
    op.create_index("keys_name", "keys", ["name"], unique=True, sqlite_where=living, postgresql_where=living)
    op.create_table(
        "secrets",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("key", _id(), sa.ForeignKey("keys.id"), nullable=False, index=True),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger),
        sa.Column("used", sa.BigInteger))
    op.create_table(
        "budgets",
        sa.Column("owner", sa.String(40), primary_key=True),
        sa.Column("unit", sa.String(10), primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False))
    op.create_table(
        "balances",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("money", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("reserved_money", sa.BigInteger, nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger, nullable=False),
        sa.CheckConstraint("reserved_money >= 0 AND reserved_tokens >= 0", name="balances_reserved"))
    op.create_table(
        "processes",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("lease", sa.BigInteger, nullable=False))
    op.create_table(
        "reservations",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("process", sa.BigInteger, nullable=False, index=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("request", sa.String(200), nullable=False),
        sa.Column("key", sa.BigInteger, nullable=False),
        sa.Column("team", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.String(200), nullable=False),
        sa.Column("money", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False))
    op.create_table(
        "ledger",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False, index=True),
        sa.Column("request", sa.String(200), nullable=False),
        sa.Column("key", sa.BigInteger, nullable=False),
        sa.Column("team", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.String(200), nullable=False),
        sa.Column("upstream", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("prompt", sa.BigInteger, nullable=False),
        sa.Column("completion", sa.BigInteger, nullable=False),
        sa.Column("cached", sa.BigInteger, nullable=False),
        sa.Column("reasoning", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("first_ms", sa.BigInteger),
        sa.Column("total_ms", sa.BigInteger),
        sa.Column("hit", sa.Boolean, nullable=False))
    op.create_table(
        "cache",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(100), nullable=False, index=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False, index=True),
        sa.Column("used", sa.BigInteger, nullable=False, index=True))
    sizes = op.create_table(
        "cache_size",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("bytes", sa.BigInteger, nullable=False))
    op.bulk_insert(sizes, [{"id": 1, "bytes": 0}])
    if op.get_bind().dialect.name == "sqlite":
        for what in ("UPDATE", "DELETE"):
            op.execute(f"CREATE TRIGGER ledger_no_{what.lower()} BEFORE {what} ON ledger"
                       f" BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END")
    else:
        op.execute("CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS"
                   f" $$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$")
        op.execute("CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger"
                   " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()")


def downgrade() -> None:
    for table in ("cache_size", "cache", "ledger", "reservations", "processes", "balances", "budgets", "secrets", "keys", "teams"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION ledger_refuse()")
