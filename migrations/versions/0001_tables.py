"""The first tables, and the rows that are always there.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
KEY = sa.String().with_variant(sa.String(collation="C"), "postgresql")
DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables, the feed's counter and the gate before Meld."""
    _webhook()
    _job()
    _connection()
    _observation()
    _baseline()
    _event()
    _subscription()
    _delivery()
    _sweep()
    _singles()


def downgrade() -> None:
    """Drop all tables."""
    for table in ("lease", "gate", "counter", "sweep", "delivery", "lane", "subscription", "event"):
        op.drop_table(table)
    for table in ("baseline", "observation", "connection", "job", "webhook"):
        op.drop_table(table)


def _webhook() -> None:
    op.create_table(
        "webhook",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("event_id", KEY, nullable=False),
        sa.Column("type", sa.String()),
        sa.Column("account_id", sa.String()),
        sa.Column("connection_id", KEY),
        sa.Column("hint_status", sa.String()),
        sa.Column("hint_reason", sa.String()),
        sa.Column("occurred_at", TIME),
        sa.Column("signed_at", TIME, nullable=False),
        sa.Column("received_at", TIME, nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("headers", DOCUMENT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("delivered_at", TIME, nullable=False),
        sa.Column("processed_at", TIME),
        sa.Column("ignored_at", TIME),
        sa.Column("failed_at", TIME),
        sa.Column("error", sa.String()),
        sa.PrimaryKeyConstraint("id", name="pk_webhook"),
        sa.UniqueConstraint("event_id", name="uq_webhook_event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_webhook_connection_id_id", "webhook", ["connection_id", "id"])
    op.create_index("ix_webhook_received_at", "webhook", ["received_at"])
    _partial_index(
        "ix_webhook_pending", "webhook", ["connection_id"], where="processed_at IS NULL AND ignored_at IS NULL"
    )
    _partial_index("ix_webhook_hint", "webhook", ["connection_id", "occurred_at"], where="hint_status IS NOT NULL")


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("requested", BIG, nullable=False),
        sa.Column("completed", BIG, nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("raised_at", TIME, nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("woken_at", TIME),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("rechecks", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String()),
        sa.Column("leased_until", TIME),
        sa.Column("failed_at", TIME),
        sa.Column("error", sa.String()),
        sa.PrimaryKeyConstraint("connection_id", name="pk_job"),
    )
    _partial_index("ix_job_due", "job", ["due_at"], where="requested > completed")
    _partial_index("ix_job_dead", "job", ["failed_at"], where="failed_at IS NOT NULL")


def _connection() -> None:
    op.create_table(
        "connection",
        sa.Column("id", KEY, nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("customer_id", sa.String()),
        sa.Column("external_customer_id", sa.String()),
        sa.Column("institution_id", sa.String()),
        sa.Column("institution_name", sa.String()),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String()),
        sa.Column("primary_duplicate_id", sa.String()),
        sa.Column("duplicate_ids", DOCUMENT, nullable=False),
        sa.Column("products", DOCUMENT, nullable=False),
        sa.Column("optional_products", DOCUMENT, nullable=False),
        sa.Column("regions", DOCUMENT, nullable=False),
        sa.Column("service_provider", sa.String()),
        sa.Column("service_provider_details", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME),
        sa.Column("aggregated_at", TIME),
        sa.Column("observed_at", TIME, nullable=False),
        sa.Column("checked_at", TIME, nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.Column("grouped_at", TIME),
        sa.Column("sweep_id", BIG),
        sa.PrimaryKeyConstraint("id", name="pk_connection"),
    )
    for column in ("customer_id", "external_customer_id", "institution_id", "status", "checked_at"):
        op.create_index(f"ix_connection_{column}", "connection", [column])
    is_grouped = "primary_duplicate_id IS NOT NULL"
    _partial_index("ix_connection_grouped", "connection", ["primary_duplicate_id"], where=is_grouped)


def _observation() -> None:
    op.create_table(
        "observation",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("generation", BIG, nullable=False),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("webhook_event_ids", DOCUMENT, nullable=False),
        sa.Column("began_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("found", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("document", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_observation"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_observation_connection_id_id", "observation", ["connection_id", "id"])


def _baseline() -> None:
    op.create_table(
        "baseline",
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("observation_id", BIG, nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.Column("mirror", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("connection_id", name="pk_baseline"),
    )


def _event() -> None:
    op.create_table(
        "event",
        sa.Column("position", BIG, autoincrement=False, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("sequence", BIG, nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("account_id", sa.String(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("observation_id", BIG, nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_event"),
        sa.UniqueConstraint("connection_id", "sequence", name="uq_event_connection_id_sequence"),
        sa.UniqueConstraint("id", name="uq_event_id"),
    )
    op.create_index("ix_event_type_position", "event", ["type", "position"])
    op.create_index("ix_event_history", "event", ["connection_id", "observation_id", "position"])


def _subscription() -> None:
    op.create_table(
        "subscription",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("types", DOCUMENT, nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("previous_secrets", DOCUMENT, nullable=False),
        sa.Column("after_position", BIG, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("paused_at", TIME),
        sa.Column("disabled_at", TIME),
        sa.Column("failing_since", TIME),
        sa.Column("error", sa.String()),
        sa.Column("woken_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_subscription"),
        sa.UniqueConstraint("name", name="uq_subscription_name"),
    )


def _delivery() -> None:
    op.create_table(
        "lane",
        sa.Column("subscription_id", KEY, nullable=False),
        sa.Column("connection_id", KEY, nullable=False),
        sa.Column("due_at", TIME),
        sa.Column("lease_token", sa.String()),
        sa.Column("leased_until", TIME),
        sa.PrimaryKeyConstraint("subscription_id", "connection_id", name="pk_lane"),
    )
    _partial_index("ix_lane_due", "lane", ["subscription_id", "due_at"], where="due_at IS NOT NULL")
    op.create_table(
        "delivery",
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
        sa.UniqueConstraint("subscription_id", "position", name="uq_delivery_subscription_id_position"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_delivery_connection_id_id", "delivery", ["connection_id", "id"])
    op.create_index("ix_delivery_event_id", "delivery", ["event_id"])
    _partial_index(
        "ix_delivery_pending",
        "delivery",
        ["subscription_id", "connection_id", "position"],
        where="delivered_at IS NULL AND dead_at IS NULL",
    )
    _partial_index("ix_delivery_dead", "delivery", ["subscription_id"], where="dead_at IS NOT NULL")


def _sweep() -> None:
    op.create_table(
        "sweep",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("after", sa.String()),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("unreadable", sa.Integer(), nullable=False),
        sa.Column("unseen", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("examples", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweep"),
    )


def _singles() -> None:
    counter = op.create_table(
        "counter",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", BIG, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counter"),
    )
    gate = op.create_table(
        "gate",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("connection_id", sa.String()),
        sa.Column("reason", sa.String()),
        sa.Column("detail", sa.String()),
        sa.Column("since", TIME),
        sa.Column("paused_until", TIME),
        sa.PrimaryKeyConstraint("name", name="pk_gate"),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.Column("ran_at", TIME),
        sa.PrimaryKeyConstraint("name", name="pk_lease"),
    )
    op.bulk_insert(counter, [{"name": "feed", "value": 0}])
    op.bulk_insert(gate, [{"name": "meld", "failures": 0}])


def _partial_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
