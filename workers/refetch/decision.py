"""What a read means: pure. No clock, no database, no network.

The event rules are those of the contract: a connection without duplicates is its own primary; nothing but its status
is told at first sight; a DELETED or EXPIRED connection says nothing of primaries.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.connection_changes import Change, PrimaryDuplicateMoved, Role, Status, StatusChanged, StatusReasonChanged
from schemas.meld.connection import TERMINAL_STATUSES
from schemas.meld.webhook import DELETED


@dataclass(frozen=True, slots=True)
class MirrorState:
    """As much of a connection as decisions look at, as stored or as read.

    Attributes:
        id: The connection.
        status: Meld's status.
        status_reason: Meld's reason.
        primary: The connection that Meld keeps up to date for this one's group: itself where it is alone.
        duplicates: The other members of its group.
    """

    id: str
    status: str
    status_reason: str | None
    primary: str
    duplicates: tuple[str, ...]

    @property
    def others(self) -> frozenset[str]:
        """Every other connection that this one names."""
        return frozenset((*self.duplicates, self.primary)) - {self.id}

    @property
    def is_terminal(self) -> bool:
        """Whether Meld will never change it again."""
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True)
class Announced:
    """What a webhook says of a status. A ``reason`` of None says nothing, an empty one that there is none."""

    status: str
    reason: str | None

    def contradicts(self, state: MirrorState) -> bool:
        """Return whether a read saw something else."""
        return not self.fits(state.status, state.status_reason)

    def fits(self, status: str, reason: str | None) -> bool:
        """Return whether that is what was announced."""
        return self.status == status and self.reason in {None, reason or ""}


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a read.

    Attributes:
        changes: What to tell, in order.
        siblings: Connections that were or are in its group, whose stored view does not fit what was read.
        strangers: Those of them that do not name it, as stored: their own reads need not lead back to it.
        is_regrouped: Whether its group is another than was stored: then the siblings are behind; otherwise either side
            may be.
        is_contradicted: Whether the newest hint says another status than the read, or the read names somebody who has
            just gone, or nobody who is left: one of the two is early.
    """

    changes: tuple[Change, ...]
    siblings: frozenset[str]
    strangers: frozenset[str]
    is_regrouped: bool
    is_contradicted: bool


def decide(
    before: MirrorState | None,
    after: MirrorState,
    group: Mapping[str, MirrorState],
    hint: Announced | None,
    *,
    gone_lately: frozenset[str] = frozenset(),
) -> Decision:
    """Compare what was stored with what was read.

    Args:
        before: The connection as stored; None at first sight.
        after: The connection as read.
        group: The stored view of every connection that ``before`` or ``after`` names, as far as it was ever seen.
        hint: What the newest hint announced; None where none did.
        gone_lately: Those of the group whose end was seen so lately that a read may not know of it.
    """
    is_regrouped = before is None or _is_regrouped(before, after)
    others = named(before, after)
    # A member that Meld lists but does not have was asked for when the group was found; once is enough.
    known = others if is_regrouped else others & group.keys()
    siblings = frozenset(id_ for id_ in known if not _agrees(group.get(id_), after))
    return Decision(
        changes=_changes(before, after),
        siblings=siblings,
        strangers=frozenset(id_ for id_ in siblings if id_ not in group or after.id not in group[id_].others),
        is_regrouped=is_regrouped,
        is_contradicted=(hint is not None and hint.contradicts(after))
        or _names_the_gone(after, group)
        or not after.others.isdisjoint(gone_lately),
    )


def named(before: MirrorState | None, after: MirrorState) -> frozenset[str]:
    """Return the other members of the connection's group, old and new."""
    return after.others | (before.others if before is not None else frozenset())


def _is_regrouped(before: MirrorState, after: MirrorState) -> bool:
    is_gone = after.status == DELETED and before.status != DELETED
    return is_gone or before.primary != after.primary or set(before.duplicates) != set(after.duplicates)


def _changes(before: MirrorState | None, after: MirrorState) -> tuple[Change, ...]:
    return tuple(change for change in (_status_change(before, after), _primary_change(before, after)) if change)


def _status_change(before: MirrorState | None, after: MirrorState) -> StatusChanged | StatusReasonChanged | None:
    current = Status(status=after.status, status_reason=after.status_reason)
    if before is None:
        return StatusChanged(previous=None, current=current)
    previous = Status(status=before.status, status_reason=before.status_reason)
    if previous.status != current.status:
        return StatusChanged(previous=previous, current=current)
    if previous.status_reason != current.status_reason:
        return StatusReasonChanged(previous=previous, current=current)
    return None


def _primary_change(before: MirrorState | None, after: MirrorState) -> PrimaryDuplicateMoved | None:
    if before is None or before.primary == after.primary or after.is_terminal:
        return None
    role: Role = "followed"
    if after.primary == after.id:
        role = "became_primary"
    elif before.primary == after.id:
        role = "lost_primary"
    return PrimaryDuplicateMoved(
        previous=before.primary, current=after.primary, duplicate_ids=list(after.duplicates), role=role
    )


def _names_the_gone(after: MirrorState, group: Mapping[str, MirrorState]) -> bool:
    """Return whether a read still shows a group of which nobody else is left."""
    return bool(after.others) and all(id_ in group and group[id_].is_terminal for id_ in after.others)


def _agrees(stored: MirrorState | None, after: MirrorState) -> bool:
    """Return whether a sibling's stored view fits what was read of ``after``, or can never come to."""
    if stored is None:
        return False
    if stored.is_terminal:
        return True
    if after.status == DELETED or stored.id not in after.others:
        return after.id not in stored.others
    together = {after.id, *after.duplicates}
    return stored.primary == after.primary and {stored.id, *stored.duplicates} == together
