"""Retention settings: how long rows are kept before ``prune`` may delete them. A part of ``runtime/settings.py``.

Rows with pending work are kept in any case.
"""

from typing import Annotated

from pydantic import BaseModel, Field

Days = Annotated[float, Field(ge=0, le=36525)]


class RetentionSettings(BaseModel):
    """The age in days after which ``prune`` may delete rows; 0 means as soon as possible."""

    retain_webhooks_days: Days = Field(
        default=90,
        description="How long webhooks are kept after they were last received and their read is done; at least 17 days,"
        " so that a late repeat is recognized. See `prune`.",
    )
    retain_bodies_days: Days = Field(
        default=30, description="How long the raw bodies and signature headers of webhooks are kept."
    )
    retain_failures_days: Days = Field(
        default=180, description="How long failed webhooks and dead deliveries are kept after the failure."
    )
    retain_observations_days: Days = Field(
        default=365,
        description="How long observations, the past states of connections, are kept. The newest one of each"
        " connection, and a summary of the deleted ones, always stay.",
    )
    retain_events_days: Days = Field(
        default=365, description="How long events stay in the feed. Events with pending deliveries always stay."
    )
    retain_deliveries_days: Days = Field(
        default=30, description="How long deliveries are kept after they were acknowledged."
    )
    retain_rejections_days: Days = Field(default=14, description="How long refused webhooks are kept.")
