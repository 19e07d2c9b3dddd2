"""Tables are named by the terms of the field. On PostgreSQL the old names stay as updatable views for one release.

Processes of version 0.1.0 go on working through the views until they are replaced; the next release drops them.
A column of replays that no release has read is dropped: which process runs a replay is decided by its lease alone.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

RENAMED_TABLES = {
    "job": "read_request",
    "lane": "delivery_queue",
    "gate": "circuit_breaker",
    "sweep": "reconcile_run",
    "counter": "feed_counter",
    "floor": "event_baseline",
}
RENAMED_INDEXES = {
    "ix_job_due": ("ix_read_request_due", "read_request", ["due_at"], "requested > completed"),
    "ix_job_dead": ("ix_read_request_dead", "read_request", ["failed_at"], "failed_at IS NOT NULL"),
    "ix_lane_due": (
        "ix_delivery_queue_due",
        "delivery_queue",
        ["subscription_id", "due_at"],
        "due_at IS NOT NULL",
    ),
}
ENCRYPTED = ("webhook", "rejection")

ALIASES = {
    "job": """
        SELECT connection_id, requested, completed, trigger, requested_at AS raised_at, due_at, woken_at, attempts,
            depth, rechecks, lease_token, leased_until, failed_at, error, replay_id
        FROM read_request
    """,
    "lane": "SELECT subscription_id, connection_id, due_at, lease_token, leased_until FROM delivery_queue",
    "gate": "SELECT name, failures, connection_id, reason, detail, since, paused_until FROM circuit_breaker",
    "sweep": """
        SELECT id, started_at, finished_at, after, pages, listed, unreadable, unseen, changed, missing, examples
        FROM reconcile_run
    """,
    "counter": "SELECT name, value FROM feed_counter",
}
"""The tables of version 0.1.0 that have another name now, as that version knows their columns."""


def upgrade() -> None:
    """Rename tables, their indexes, constraints and sequences, and three columns; leave the old names as views."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for old, new in RENAMED_TABLES.items():
        op.rename_table(old, new)
        if not is_sqlite:
            _rename_constraints(new, old, new)
    for old_index, (new_index, table, columns, condition) in RENAMED_INDEXES.items():
        _rename_index(old_index, new_index, table, columns, condition)
    op.alter_column("read_request", "raised_at", new_column_name="requested_at")
    if not is_sqlite:
        _rename_constraints("read_request", "raised_at", "requested_at")
    for table in ENCRYPTED:
        op.alter_column(table, "sealed_with", new_column_name="encrypted_with")
    op.drop_column("replay", "is_attended")
    if not is_sqlite:
        op.execute("ALTER SEQUENCE sweep_id_seq RENAME TO reconcile_run_id_seq")
        for name, query in ALIASES.items():
            op.execute(f"CREATE VIEW {name} AS {query}")
            _copy_grants(RENAMED_TABLES[name], name)


def downgrade() -> None:
    """Take the names back."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:
        for name in ALIASES:
            op.execute(f"DROP VIEW {name}")
        op.execute("ALTER SEQUENCE reconcile_run_id_seq RENAME TO sweep_id_seq")
    op.add_column("replay", sa.Column("is_attended", sa.Boolean(), nullable=False, server_default=sa.false()))
    for table in ENCRYPTED:
        op.alter_column(table, "encrypted_with", new_column_name="sealed_with")
    op.alter_column("read_request", "requested_at", new_column_name="raised_at")
    if not is_sqlite:
        _rename_constraints("read_request", "requested_at", "raised_at")
    for old_index, (new_index, table, columns, condition) in RENAMED_INDEXES.items():
        _rename_index(new_index, old_index, table, columns, condition)
    for old, new in RENAMED_TABLES.items():
        if not is_sqlite:
            _rename_constraints(new, new, old)
        op.rename_table(new, old)


def _copy_grants(table: str, view: str) -> None:
    """Grant on a view what roles may do with its table: processes may have another role than migrations."""
    grants = sa.text("""
        SELECT format('GRANT %s ON %I TO %s', privilege_type, CAST(:view AS text),
            CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
        FROM pg_class, aclexplode(relacl)
        WHERE pg_class.oid = CAST(:table AS regclass) AND grantee <> relowner
            AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    """)
    for statement in op.get_bind().scalars(grants, {"view": view, "table": table}).all():
        op.execute(statement)


def _rename_constraints(table: str, old: str, new: str) -> None:
    """Rename a table's constraints on PostgreSQL, where from version 18 on every NOT NULL is one with a name."""
    names = sa.text("SELECT conname FROM pg_constraint WHERE conrelid = CAST(:table AS regclass)")
    for name in op.get_bind().scalars(names, {"table": table}).all():
        if old in name:
            op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO {name.replace(old, new, 1)}")


def _rename_index(old: str, new: str, table: str, columns: list[str], condition: str) -> None:
    """Rename a partial index; SQLite cannot, and makes it again."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP INDEX {old}")
        op.execute(f"CREATE INDEX {new} ON {table} ({', '.join(columns)}) WHERE {condition}")
    else:
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
