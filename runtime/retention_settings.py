"""The settings that say how long rows are kept; a part of ``settings.py``. What is owed stays, whatever they are."""

from typing import Annotated

from pydantic import BaseModel, Field

Days = Annotated[float, Field(ge=0, le=36525)]


class RetentionSettings(BaseModel):
    """What ``prune`` may remove, by age in days; 0 is as soon as it is allowed to."""

    retain_webhooks_days: Days = Field(
        default=90,
        description="How long webhooks are kept, counted from their last delivery, once the read that they are owed was"
        " done; never shorter than 17 days, so that no late repeat is new again. See `prune`.",
    )
    retain_bodies_days: Days = Field(
        default=30, description="How long their raw bodies and their signatures' headers are kept."
    )
    retain_failures_days: Days = Field(
        default=180, description="How long failed webhooks and dead deliveries are kept, counted from the failure."
    )
    retain_observations_days: Days = Field(
        default=365,
        description="How long observations are kept: what a connection was in the past. The newest always stays, and"
        " what the others amounted to.",
    )
    retain_events_days: Days = Field(
        default=365, description="How long events stay in the feed. Those that are owed to a subscription stay."
    )
    retain_deliveries_days: Days = Field(
        default=30, description="How long deliveries are kept, counted from when they were taken."
    )
    retain_rejections_days: Days = Field(default=14, description="How long refused webhooks are kept.")
