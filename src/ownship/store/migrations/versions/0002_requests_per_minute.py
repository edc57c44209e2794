"""How many requests a key may make in a minute."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("keys", sa.Column("per_minute", sa.Integer))


def downgrade() -> None:
    op.drop_column("keys", "per_minute")
