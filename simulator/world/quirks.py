"""Quirks of Meld: switches for behaviour that its documentation leaves open or contradicts."""

from pydantic import BaseModel, ConfigDict


class Quirks(BaseModel):
    """One switch for each open question. The default is what is hardest for a receiver, or else what is likeliest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    third_announced: bool = False
    """Members whose group changed, but not their own state, get a STATUS_CHANGE too."""
    promotion_silent: bool = False
    """The member that becomes primary gets no STATUS_CHANGE."""
    expiry_announced: bool = False
    """A connection that expires gets a STATUS_CHANGE."""
    deletion_changes_status: bool = False
    """A deleted connection gets a STATUS_CHANGE in addition to its DELETED event."""
    deleted_gone: bool = False
    """A deleted connection answers 404 and leaves the list, instead of 200 with DELETED."""
    deleted_kept: bool = False
    """The ids of deleted members stay in duplicateConnectionIds while there are duplicates."""
    self_listed: bool = False
    """duplicateConnectionIds contains the connection itself too."""
    empty_list: bool = False
    """Without duplicates duplicateConnectionIds is [] instead of null."""
    reconnect_refreshable: bool = False
    """RECONNECT_REQUIRED can be refreshed instead of answering 409."""
    errors_listed: bool = False
    """Error bodies are {"errors": [...]} instead of a top-level object."""
    credentials: bool = True
    """serviceProviderDetails contains a provider's accessToken, as it does at Meld."""
