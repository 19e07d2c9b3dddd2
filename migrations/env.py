"""Alembic's entry: the revisions run on the connection, and inside the transaction, that ``run.py`` hands over."""

from alembic import context

from schemas.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    # SQLite cannot alter a table in place: it is copied.
    render_as_batch=True,
)
context.run_migrations()
