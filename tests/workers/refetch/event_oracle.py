"""All changes of small duplicate groups, and the events that docs/events.md demands for them; written from its text."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

DEAD = ("DELETED", "EXPIRED")


@dataclass(frozen=True)
class Group:
    """Members that share a login; a lone connection is a group of one."""

    primary: str
    members: frozenset[str]


@dataclass(frozen=True)
class View:
    """What Meld answers for one connection."""

    status: str
    reason: str | None
    primary: str | None
    duplicates: frozenset[str]


LONE = View("ACTIVE", None, None, frozenset())


@dataclass(frozen=True)
class World:
    """The groups, and Meld's answers for connections that have ended."""

    groups: frozenset[Group]
    dead: frozenset[tuple[str, View]] = frozenset()

    def view(self, id_: str) -> View:
        """Return what Meld answers for a connection."""
        for dead, view in self.dead:
            if dead == id_:
                return view
        group = self.group_of(id_)
        others = group.members - {id_}
        if not others:
            return LONE
        if id_ == group.primary:
            return View("ACTIVE", None, id_, others)
        return View("PARTIALLY_ACTIVE", "INACTIVE_DUPLICATE", group.primary, others)

    def group_of(self, id_: str) -> Group:
        """Return the group of a living connection."""
        return next(group for group in self.groups if id_ in group.members)


@dataclass(frozen=True)
class Act:
    """A change: its kind, its connection, and the primary of the group that the connection left or joined."""

    kind: str
    id: str
    primary: str | None = None


def worlds(ids: str) -> Iterator[World]:
    """Yield every partition of connections into groups, with every primary."""
    for parts in _partitions(list(ids)):
        for primaries in product(*parts):
            yield World(frozenset(map(Group, primaries, map(frozenset, parts))))


def _partitions(ids: list[str]) -> Iterator[list[list[str]]]:
    if not ids:
        yield []
        return
    for parts in _partitions(ids[1:]):
        yield [[ids[0]], *parts]
        for number, part in enumerate(parts):
            yield [*parts[:number], [ids[0], *part], *parts[number + 1 :]]


def acts(world: World) -> Iterator[tuple[Act, World]]:
    """Yield every possible next change, and the world after it."""
    for group in world.groups:
        rest = world.groups - {group}
        for id_ in group.members:
            yield from _moves(world, rest, group, id_)
            yield from _ends(world, rest, group, id_)
            if len(group.members) == 1:
                yield from _joins(world, rest, id_)


def _moves(world: World, rest: frozenset[Group], group: Group, id_: str) -> Iterator[tuple[Act, World]]:
    if id_ != group.primary:
        yield Act("moved", id_, id_), replace(world, groups=rest | {replace(group, primary=id_)})
    for heir, left in _left(group, id_):
        groups = rest | {Group(heir, left), Group(id_, frozenset({id_}))}
        yield Act("left", id_, heir), replace(world, groups=groups)


def _ends(world: World, rest: frozenset[Group], group: Group, id_: str) -> Iterator[tuple[Act, World]]:
    for status in DEAD:
        # Meld may keep what it said of the group, or not.
        for view in {replace(LONE, status=status), View(status, None, group.primary, group.members - {id_})}:
            dead = world.dead | {(id_, view)}
            if len(group.members) == 1:
                yield Act("ended", id_), World(rest, dead)
            for heir, left in _left(group, id_):
                yield Act("ended", id_, heir), World(rest | {Group(heir, left)}, dead)


def _joins(world: World, rest: frozenset[Group], id_: str) -> Iterator[tuple[Act, World]]:
    for other in rest:
        for primary in (id_, other.primary):
            joined = Group(primary, other.members | {id_})
            yield Act("joined", id_, primary), replace(world, groups=(rest - {other}) | {joined})


def _left(group: Group, id_: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield every possible primary of a group without one of its members, and the remaining members."""
    left = group.members - {id_}
    for heir in left if id_ == group.primary else {group.primary} & left:
        yield heir, left


def histories(world: World, depth: int) -> Iterator[tuple[list[Act], list[World]]]:
    """Yield every sequence of up to ``depth`` changes, with the worlds before, between and after them."""
    yield [], [world]
    if depth:
        for act, after in acts(world):
            for rest, worlds_ in histories(after, depth - 1):
                yield [act, *rest], [world, *worlds_]


def expected_events(id_: str, known: View | None, seen: View) -> list[tuple[object, ...]]:
    """Return the events that must be emitted for a connection that was known as this, or unknown, and is seen now."""
    status, before = (seen.status, seen.reason), (known.status, known.reason) if known else None
    said: list[tuple[object, ...]] = []
    if before is None or before[0] != status[0]:
        said.append(("status", before, status))
    elif before != status:
        said.append(("reason", before, status))
    if known is None or seen.status in DEAD:
        return said
    previous, current = primary_of(id_, known), primary_of(id_, seen)
    if previous != current:
        role = "became_primary" if current == id_ else "lost_primary" if previous == id_ else "followed"
        said.append((role, previous, current))
    return said


def primary_of(id_: str, view: View) -> str:
    """Return a connection's primary: a connection without duplicates is its own."""
    return view.primary or id_ if view.duplicates else id_
