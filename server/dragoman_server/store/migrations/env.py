"""What Alembic runs: the steps, on the connection that `upgrade` holds."""

from __future__ import annotations

from alembic import context

from dragoman_server.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
