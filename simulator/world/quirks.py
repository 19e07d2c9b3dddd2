"""How Meld behaves where its documentation is silent or contradicts itself."""

from pydantic import BaseModel, ConfigDict


class Quirks(BaseModel):
    """Every switch is one open question; the default is the hardest on a receiver, or else the likeliest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    third_announced: bool = False
    """Members whose group changed around them get a STATUS_CHANGE of their own."""
    promotion_silent: bool = False
    """The member that becomes primary gets no STATUS_CHANGE."""
    expiry_announced: bool = False
    """A connection that expires gets a STATUS_CHANGE."""
    deletion_changes_status: bool = False
    """A deleted connection gets a STATUS_CHANGE beside its DELETED event."""
    deleted_gone: bool = False
    """A deleted connection answers 404 and leaves the list, instead of 200 with DELETED."""
    deleted_kept: bool = False
    """The ids of deleted members stay in duplicateConnectionIds while there are duplicates."""
    self_listed: bool = False
    """duplicateConnectionIds holds the connection itself too."""
    empty_list: bool = False
    """Without duplicates duplicateConnectionIds is [] instead of null."""
    reconnect_refreshable: bool = False
    """RECONNECT_REQUIRED can be refreshed instead of answering 409."""
    errors_listed: bool = False
    """Errors come as {"errors": [...]} instead of at the top level."""
    credentials: bool = True
    """serviceProviderDetails holds a provider's accessToken, as it does at Meld."""
