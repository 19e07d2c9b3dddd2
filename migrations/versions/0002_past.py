"""What replays, rejections, acts and retention need. Deliveries are sent in the order of their ids.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")
DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)

ONCE = "uq_delivery_subscription_id_position"
PENDING = "delivered_at IS NULL AND dead_at IS NULL"


def upgrade() -> None:
    """Add the columns and the tables. Webhooks that are there are in clear; no delivery is of a replay."""
    op.add_column("webhook", sa.Column("sealed_with", sa.String()))
    op.add_column("webhook", sa.Column("emptied_at", TIME))
    op.add_column("job", sa.Column("replay_id", KEY))
    op.add_column("observation", sa.Column("replay_id", KEY))
    _let_deliveries_be_replayed()
    _rejection()
    _replay()
    _audit()
    _floor()


def downgrade() -> None:
    """Remove them. What was owed by replays is forgotten, and bodies that are sealed stay so."""
    for table in ("floor", "audit", "replay", "rejection"):
        op.drop_table(table)
    _let_deliveries_be_once()
    op.drop_column("observation", "replay_id")
    op.drop_column("job", "replay_id")
    op.drop_column("webhook", "emptied_at")
    op.drop_column("webhook", "sealed_with")


def _let_deliveries_be_replayed() -> None:
    for name in ("pending", "dead", "connection_id_id", "event_id"):
        op.drop_index(f"ix_delivery_{name}", "delivery")
    if op.get_bind().dialect.name == "sqlite":
        once = sa.UniqueConstraint("subscription_id", "position", name=ONCE)
        with op.batch_alter_table("delivery", copy_from=_delivery_of(once), recreate="always") as delivery:
            delivery.drop_constraint(ONCE, type_="unique")
            delivery.add_column(sa.Column("replay_id", KEY))
    else:
        op.drop_constraint(ONCE, "delivery", type_="unique")
        op.add_column("delivery", sa.Column("replay_id", KEY))
    owner = "subscription_id"
    _index("live", [owner, "position"], where="replay_id IS NULL", unique=True)
    _index("replayed", [owner, "replay_id", "position"], where="replay_id IS NOT NULL", unique=True)
    _index("pending", [owner, "connection_id", "id"], where=PENDING)
    _add_old_indexes()


def _let_deliveries_be_once() -> None:
    op.execute("DELETE FROM delivery WHERE replay_id IS NOT NULL")
    for name in ("live", "replayed", "pending", "dead", "connection_id_id", "event_id"):
        op.drop_index(f"ix_delivery_{name}", "delivery")
    if op.get_bind().dialect.name == "sqlite":
        replay_id = sa.Column("replay_id", KEY)
        with op.batch_alter_table("delivery", copy_from=_delivery_of(replay_id), recreate="always") as delivery:
            delivery.drop_column("replay_id")
            delivery.create_unique_constraint(ONCE, ["subscription_id", "position"])
    else:
        op.drop_column("delivery", "replay_id")
        op.create_unique_constraint(ONCE, "delivery", ["subscription_id", "position"])
    _index("pending", ["subscription_id", "connection_id", "position"], where=PENDING)
    _add_old_indexes()


def _add_old_indexes() -> None:
    op.create_index("ix_delivery_connection_id_id", "delivery", ["connection_id", "id"])
    op.create_index("ix_delivery_event_id", "delivery", ["event_id"])
    _index("dead", ["subscription_id"], where="dead_at IS NOT NULL")


def _delivery_of(extra: sa.UniqueConstraint | sa.Column[str]) -> sa.Table:
    """Return the table as it is before the change: SQLite takes a constraint away by making the table anew."""
    return sa.Table(
        "delivery",
        sa.MetaData(),
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tried_at", TIME),
        sa.Column("delivered_at", TIME),
        sa.Column("dead_at", TIME),
        sa.Column("error", sa.String()),
        sa.Column("outcomes", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        extra,
        sqlite_autoincrement=True,
    )


def _rejection() -> None:
    op.create_table(
        "rejection",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("reason", KEY, nullable=False),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("off_seconds", sa.Float()),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("headers", DOCUMENT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_with", sa.String()),
        sa.Column("is_likely", sa.Boolean(), nullable=False),
        sa.Column("type", sa.String()),
        sa.Column("admitted_at", TIME),
        sa.Column("event_id", KEY),
        sa.PrimaryKeyConstraint("id", name="pk_rejection"),
        sa.UniqueConstraint("digest", name="uq_rejection_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rejection_reason_id", "rejection", ["reason", "id"])
    op.create_index("ix_rejection_received_at", "rejection", ["received_at"])
    unlikely = sa.text("NOT is_likely")
    op.create_index(
        "ix_rejection_unlikely",
        "rejection",
        ["reason", "id"],
        sqlite_where=unlikely,
        postgresql_where=unlikely,
    )


def _replay() -> None:
    op.create_table(
        "replay",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("filter", DOCUMENT, nullable=False),
        sa.Column("subscription_id", KEY),
        sa.Column("rate", sa.Float()),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("is_attended", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("after", KEY, nullable=False),
        sa.Column("total", sa.Integer()),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("stopped_at", TIME),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_replay"),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("subject", sa.String()),
        sa.Column("connection_id", KEY),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_connection_id_id", "audit", ["connection_id", "id"])


def _floor() -> None:
    op.create_table(
        "floor",
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("observation_id", BIG, nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.PrimaryKeyConstraint("connection_id", name="pk_floor"),
    )


def _index(name: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(
        f"ix_delivery_{name}",
        "delivery",
        columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )
