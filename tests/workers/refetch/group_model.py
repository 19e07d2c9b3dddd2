"""A model of duplicate groups without a database: the groups, the stored views, and the reads that reads request."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.connection_changes import Change, PrimaryDuplicateMoved
from workers.refetch.decision import MirrorState, decide, group_members

Group = tuple[str, ...]
"""The members, their primary first."""


def view(id_: str, groups: Iterable[Group], status: str = "ACTIVE") -> MirrorState:
    """Return what Meld says of a connection in this world."""
    for members in groups:
        if id_ in members and len(members) > 1:
            others = tuple(sorted(set(members) - {id_}))
            return MirrorState(id_, status, None, members[0], others)
    return MirrorState(id_, status, None, id_, ())


@dataclass
class Mirror:
    """The stored views, and the changes that reads of them emitted.

    Attributes:
        truth: What Meld says of each connection.
        stored: The stored views; a connection that was never seen has none.
        reads: How many reads were made.
        changes: What was told, by connection, in order.
    """

    truth: dict[str, MirrorState]
    stored: dict[str, MirrorState]
    reads: int = 0
    changes: list[tuple[str, Change]] = field(default_factory=list)

    def read(self, id_: str) -> frozenset[str]:
        """Read one connection and store the result; return the connections to read as well."""
        before, after = self.stored.get(id_), self.truth[id_]
        group = {other: self.stored[other] for other in group_members(before, after) if other in self.stored}
        decision = decide(before, after, group, None)
        self.reads += 1
        self.stored[id_] = after
        self.changes += [(id_, change) for change in decision.changes]
        return decision.siblings

    def settle(self, first: Sequence[str], chance: random.Random, *, most: int) -> None:
        """Read connections and those that their reads request, in random order, at most ``most`` of them."""
        waiting = set(first)
        while waiting and self.reads < most:
            id_ = chance.choice(sorted(waiting))
            waiting.discard(id_)
            waiting |= self.read(id_)
        assert not waiting

    def moves(self) -> list[tuple[str, PrimaryDuplicateMoved]]:
        """Return the primary moves that were emitted."""
        return [(id_, change) for id_, change in self.changes if isinstance(change, PrimaryDuplicateMoved)]
