"""What alembic runs: the migrations, on the connection and in the transaction that `database.migrate` opened."""

from __future__ import annotations

from alembic import context

from ownship.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
