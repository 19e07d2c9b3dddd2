"""Alembic's entry point: revisions run on the connection, and in the transaction, of ``migrations/run.py``."""

from alembic import context

from schemas.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite cannot alter most of a table in place: Alembic copies it.
    render_as_batch=True,
)
context.run_migrations()
