"""Decision: what a read means for the events and the duplicate group. Pure: no clock, no database, no network.

The event rules are those of docs/events.md: a connection without duplicates is its own primary; at first sight only a
status event is emitted; a DELETED or EXPIRED connection emits no primary event.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.connection_changes import Change, PrimaryDuplicateMoved, Role, Status, StatusChanged, StatusReasonChanged
from schemas.meld.connection import TERMINAL_STATUSES
from schemas.meld.webhook import DELETED


@dataclass(frozen=True, slots=True)
class MirrorState:
    """The part of a connection that decisions compare, as stored or as read.

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
        """Whether its status is final at Meld."""
        return self.status in TERMINAL_STATUSES


@dataclass(frozen=True, slots=True)
class StatusHint:
    """The status that a webhook names.

    Attributes:
        status: Meld's status.
        reason: Meld's reason; None if the webhook names none, empty if it says that there is none.
    """

    status: str
    reason: str | None

    def contradicts(self, state: MirrorState) -> bool:
        """Return whether the connection has another status or reason."""
        return not self.matches(state.status, state.status_reason)

    def matches(self, status: str, reason: str | None) -> bool:
        """Return whether this is the status and reason that the webhook names."""
        return self.status == status and self.reason in {None, reason or ""}


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a read.

    Attributes:
        changes: The changes to emit as events, in order.
        siblings: Old and new members of its group whose stored view disagrees with what was read.
        one_way_siblings: Those of them whose stored view does not name the connection: their reads need not lead back
            to it.
        is_group_changed: Whether its group is another than was stored: then the siblings are behind; otherwise either
            side may be.
        is_contradicted: Whether the newest hint names another status than the read, or the read names a member that has
            just ended, or only members that have ended: one of the two is too early.
    """

    changes: tuple[Change, ...]
    siblings: frozenset[str]
    one_way_siblings: frozenset[str]
    is_group_changed: bool
    is_contradicted: bool


def decide(
    before: MirrorState | None,
    after: MirrorState,
    group: Mapping[str, MirrorState],
    hint: StatusHint | None,
    *,
    recently_ended: frozenset[str] = frozenset(),
) -> Decision:
    """Compare what was stored with what was read.

    Args:
        before: The connection as stored; None at first sight.
        after: The connection as read.
        group: The stored view of every connection that ``before`` or ``after`` names, if it was ever seen.
        hint: The status that the newest webhook names; None if none does.
        recently_ended: Members whose end was seen so recently that the read may not show it yet.
    """
    is_regrouped = before is None or _is_regrouped(before, after)
    others = group_members(before, after)
    # A member that Meld lists but does not have was read when the group was found; once is enough.
    known = others if is_regrouped else others & group.keys()
    siblings = frozenset(id_ for id_ in known if not _agrees(group.get(id_), after))
    return Decision(
        changes=_changes(before, after),
        siblings=siblings,
        one_way_siblings=frozenset(id_ for id_ in siblings if id_ not in group or after.id not in group[id_].others),
        is_group_changed=is_regrouped,
        is_contradicted=(hint is not None and hint.contradicts(after))
        or _names_only_ended(after, group)
        or not after.others.isdisjoint(recently_ended),
    )


def group_members(before: MirrorState | None, after: MirrorState) -> frozenset[str]:
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


def _names_only_ended(after: MirrorState, group: Mapping[str, MirrorState]) -> bool:
    """Return whether a read names other members, all of which have ended."""
    return bool(after.others) and all(id_ in group and group[id_].is_terminal for id_ in after.others)


def _agrees(stored: MirrorState | None, after: MirrorState) -> bool:
    """Return whether a sibling's stored view agrees with what was read of ``after``, or is final."""
    if stored is None:
        return False
    if stored.is_terminal:
        return True
    if after.status == DELETED or stored.id not in after.others:
        return after.id not in stored.others
    together = {after.id, *after.duplicates}
    return stored.primary == after.primary and {stored.id, *stored.duplicates} == together
