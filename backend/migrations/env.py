"""How Alembic reaches the database: by the address that `backend.database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from backend.database import connect, metadata

engine = connect(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
