"""Alembic's entry: runs on the connection it is handed, inside the caller's transaction."""

from alembic import context

from services.adapters.db.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=False,  # the caller's transaction holds all of it
)
context.run_migrations()
