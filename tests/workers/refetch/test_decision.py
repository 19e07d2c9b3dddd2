import random
from dataclasses import replace
from itertools import compress, product

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.connection_changes import PrimaryDuplicateMoved, Status, StatusChanged, StatusReasonChanged
from schemas.meld.connection import TERMINAL_STATUSES
from tests.workers.refetch import event_oracle
from tests.workers.refetch.group_model import Group, Mirror, view
from workers.refetch.decision import MirrorState, StatusHint, decide, group_members

IDS = tuple("abcdef")
STATUSES = ("ACTIVE", "PARTIALLY_ACTIVE", "RECONNECT_REQUIRED", "IN_PROGRESS", "DELETED", "EXPIRED", "NEVER_HEARD_OF")
REASONS = (None, "LOGIN_REQUIRED", "INACTIVE_DUPLICATE", "OTHER")

ids = st.sampled_from(IDS)
statuses = st.sampled_from(STATUSES)


@st.composite
def states(draw: st.DrawFn, id_: str | None = None) -> MirrorState:
    """Any state of a connection, also one that Meld should never show."""
    own = id_ or draw(ids)
    others = draw(st.lists(ids.filter(lambda other: other != own), unique=True, max_size=5))
    primary = draw(st.sampled_from([own, *others])) if others else draw(st.sampled_from([own, own, *IDS]))
    return MirrorState(own, draw(statuses), draw(st.sampled_from(REASONS)), primary, tuple(others))


announcements = st.builds(StatusHint, statuses, st.none() | st.sampled_from(["", "LOGIN_REQUIRED", "OTHER"]))
befores = st.none() | states("a")
groups = st.dictionaries(ids, st.none(), max_size=6).flatmap(
    lambda keys: st.fixed_dictionaries({key: states(key) for key in keys})
)


def status_of(state: MirrorState) -> Status:
    return Status(status=state.status, status_reason=state.status_reason)


def moves_of(before: MirrorState | None, after: MirrorState) -> list[PrimaryDuplicateMoved]:
    changes = decide(before, after, {}, None).changes
    return [change for change in changes if isinstance(change, PrimaryDuplicateMoved)]


ALONE = MirrorState("a", "ACTIVE", None, "a", ())
PRIMARY = MirrorState("a", "ACTIVE", None, "a", ("b", "c"))
SECOND = MirrorState("a", "PARTIALLY_ACTIVE", "INACTIVE_DUPLICATE", "b", ("b", "c"))
THIRD = MirrorState("a", "PARTIALLY_ACTIVE", "INACTIVE_DUPLICATE", "c", ("b", "c"))


@pytest.mark.parametrize(
    ("before", "after", "role"),
    [
        pytest.param(SECOND, PRIMARY, "became_primary", id="it became the primary"),
        pytest.param(PRIMARY, SECOND, "lost_primary", id="it was the primary"),
        pytest.param(SECOND, THIRD, "followed", id="it never was"),
        pytest.param(ALONE, PRIMARY, None, id="a group forms around it"),
        pytest.param(ALONE, SECOND, "lost_primary", id="a group forms around a newcomer"),
        pytest.param(PRIMARY, ALONE, None, id="the primary is left alone"),
        pytest.param(SECOND, ALONE, "became_primary", id="a member is left alone"),
        pytest.param(None, PRIMARY, None, id="first sight of a primary"),
        pytest.param(None, SECOND, None, id="first sight of another"),
        pytest.param(PRIMARY, replace(SECOND, status="DELETED"), None, id="deleted"),
        pytest.param(PRIMARY, replace(SECOND, status="EXPIRED"), None, id="expired"),
        pytest.param(replace(PRIMARY, status="DELETED"), SECOND, "lost_primary", id="back from the dead"),
        pytest.param(PRIMARY, replace(PRIMARY, duplicates=("c", "b")), None, id="another order"),
        pytest.param(PRIMARY, replace(PRIMARY, duplicates=("b", "c", "d")), None, id="a member more"),
    ],
)
def test_roles(before: MirrorState | None, after: MirrorState, role: str | None) -> None:
    """The role in a primary event for each kind of move."""
    event_oracle = moves_of(before, after)

    assert [move.role for move in event_oracle] == ([role] if role else [])


@given(befores, states("a"), groups, st.none() | announcements)
def test_one_read_emits_at_most_a_status_and_a_primary_event(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState], hint: StatusHint | None
) -> None:
    """The status or its reason first, then the primary, and never two of a kind."""
    changes = decide(before, after, group, hint).changes

    kinds = [isinstance(change, PrimaryDuplicateMoved) for change in changes]
    assert kinds in ([], [False], [True], [False, True])


@given(states("a"), groups, st.none() | announcements)
def test_at_first_sight_only_the_status_is_emitted(
    after: MirrorState, group: dict[str, MirrorState], hint: StatusHint | None
) -> None:
    """There is no previous primary that could have moved."""
    changes = decide(None, after, group, hint).changes

    assert changes == (StatusChanged(previous=None, current=status_of(after)),)


@given(states("a"), states("a"))
def test_a_status_is_emitted_if_and_only_if_it_changed(before: MirrorState, after: MirrorState) -> None:
    """Another status is one type of event, another reason of the same status the other."""
    told = [
        change for change in decide(before, after, {}, None).changes if not isinstance(change, PrimaryDuplicateMoved)
    ]

    kind = StatusChanged if before.status != after.status else StatusReasonChanged
    is_changed = status_of(before) != status_of(after)
    expected = [kind(previous=status_of(before), current=status_of(after))] if is_changed else []
    assert told == expected


@given(states("a"), states("a"))
def test_a_primary_is_emitted_if_and_only_if_it_moved(before: MirrorState, after: MirrorState) -> None:
    """From the stored primary to the one that was read, with the role of this connection."""
    event_oracle = moves_of(before, after)

    has_moved = before.primary != after.primary and after.status not in TERMINAL_STATUSES
    assert len(event_oracle) == has_moved
    for move in event_oracle:
        role = "became_primary" if after.primary == "a" else "lost_primary" if before.primary == "a" else "followed"
        assert (move.previous, move.current, move.role) == (before.primary, after.primary, role)
        assert move.duplicate_ids == list(after.duplicates)


@given(befores, states("a").filter(lambda state: state.status in TERMINAL_STATUSES), groups)
def test_an_ended_connection_emits_no_primary_event(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState]
) -> None:
    """A DELETED or EXPIRED connection has no data that could move."""
    changes = decide(before, after, group, None).changes

    assert not any(isinstance(change, PrimaryDuplicateMoved) for change in changes)


@given(states("a"), groups)
def test_a_read_without_changes_emits_nothing(state: MirrorState, group: dict[str, MirrorState]) -> None:
    """Whatever the stored views of the others are, there is no event and no changed group."""
    decision = decide(state, state, group, None)

    assert (decision.changes, decision.is_group_changed) == ((), False)


@given(befores, states("a"), groups)
def test_a_read_that_names_only_ended_members_is_contradicted(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState]
) -> None:
    """Meld shows no group of one: if all others have ended, the read is older than their end."""
    left = [id_ for id_ in after.others if id_ not in group or group[id_].status not in {"DELETED", "EXPIRED"}]

    assert decide(before, after, group, None).is_contradicted == (bool(after.others) and not left)


@given(st.lists(st.permutations(IDS), min_size=1, max_size=1), st.integers(1, 6), ids)
def test_a_read_in_a_group_that_agrees_requests_nothing(order: list[list[str]], size: int, id_: str) -> None:
    """If all members are stored as Meld has them, a read of any of them requests no other."""
    world = [tuple(order[0][:size])]
    stored = {other: view(other, world) for other in IDS}
    state = stored[id_]
    group = {other: stored[other] for other in group_members(state, state)}

    decision = decide(state, state, group, None)

    assert (decision.changes, decision.siblings) == ((), frozenset())


@given(befores, states("a"), groups)
def test_siblings_are_others_that_are_named(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState]
) -> None:
    """A read leads to members of the old group and the new, and never to itself."""
    decision = decide(before, after, group, None)

    assert decision.siblings <= group_members(before, after)
    assert "a" not in decision.siblings


@given(states("a"), groups)
def test_a_listed_member_that_was_never_seen_is_read_once(state: MirrorState, group: dict[str, MirrorState]) -> None:
    """It is read when the group is found, not each time that the group is found unchanged."""
    first = decide(None, state, group, None)
    again = decide(state, state, group, None)

    strangers = state.others - group.keys()
    assert strangers <= first.siblings
    assert not strangers & again.siblings


@given(befores, states("a"), groups)
def test_an_ended_sibling_is_not_read(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState]
) -> None:
    """A connection whose status is final is not read because of others."""
    dead = {id_ for id_, state in group.items() if state.is_terminal}

    assert not dead & decide(before, after, group, None).siblings


@given(befores, states("a"), st.none() | announcements)
def test_a_hint_contradicts_a_read_with_another_status(
    before: MirrorState | None, after: MirrorState, hint: StatusHint | None
) -> None:
    """Without a hint there is no contradiction, and a hint without a reason contradicts no reason."""
    decision = decide(before, after, {}, hint)

    says = None if hint is None else (hint.status, after.status_reason or "" if hint.reason is None else hint.reason)
    assert decision.is_contradicted == (says not in {None, (after.status, after.status_reason or "")})


@given(befores, states("a"), groups, st.none() | announcements, st.permutations(IDS))
def test_order_does_not_matter(
    before: MirrorState | None, after: MirrorState, group: dict[str, MirrorState], hint: str | None, order: list[str]
) -> None:
    """A group is a set: in what order Meld lists its members changes neither moves nor siblings."""
    shuffled = replace(after, duplicates=tuple(id_ for id_ in order if id_ in after.duplicates))
    one, other = decide(before, after, group, hint), decide(before, shuffled, group, hint)

    assert one.siblings == other.siblings
    assert (one.is_group_changed, one.is_contradicted) == (other.is_group_changed, other.is_contradicted)
    assert [type(change) for change in one.changes] == [type(change) for change in other.changes]


# Convergence: what reads lead to brings every member's view in line with Meld's.


@st.composite
def worlds(draw: st.DrawFn) -> list[Group]:
    """Six connections, in any groups, each with its primary first."""
    order = draw(st.permutations(IDS))
    cuts = sorted(draw(st.sets(st.integers(1, 5), max_size=5)))
    return [tuple(order[start:end]) for start, end in zip([0, *cuts], [*cuts, 6], strict=True)]


def roles_of(mirror: Mirror, role: str) -> list[str]:
    return [id_ for id_, move in mirror.moves() if move.role == role]


@given(st.lists(worlds(), min_size=2, max_size=4), st.data(), st.randoms(use_true_random=False))
def test_any_stale_views_converge(history: list[list[Group]], data: st.DataObject, chance: random.Random) -> None:
    """Whatever moments of the past the stored views are of, and in whatever order reads come, all come to agree.

    Every connection whose group changed is read, as its webhook or the clock would have it; the members that those
    lead to are read as well, and that ends.
    """
    *past, present = history
    truth = {id_: view(id_, present) for id_ in IDS}
    stored = {}
    for id_ in IDS:
        moment = data.draw(st.none() | st.integers(0, len(past) - 1))
        if moment is not None:
            stored[id_] = view(id_, past[moment])
    mirror = Mirror(truth, dict(stored))

    mirror.settle(data.draw(st.sets(ids).map(sorted)), chance, most=100)
    for id_ in sorted(stored):
        if mirror.stored[id_] != truth[id_]:
            mirror.settle([id_], chance, most=200)
            # One read was enough for its whole group, whatever was stored of the others.
            assert all(mirror.stored.get(other) == truth[other] for other in truth[id_].others)

    assert mirror.stored == {id_: truth[id_] for id_ in mirror.stored}
    for id_ in IDS:
        told = [move.role for teller, move in mirror.moves() if teller == id_]
        was = stored.get(id_)
        became = was is not None and was.primary != id_ and truth[id_].primary == id_
        assert told.count("became_primary") == became


@given(worlds(), worlds(), st.data(), st.randoms(use_true_random=False))
def test_one_read_of_a_group_brings_all_its_members_in_line(
    before: list[Group], after: list[Group], data: st.DataObject, chance: random.Random
) -> None:
    """A webhook of one member whose group changed leads to reads of all old and new members."""
    truth = {id_: view(id_, after) for id_ in IDS}
    mirror = Mirror(truth, {id_: view(id_, before) for id_ in IDS})
    changed = [id_ for id_ in IDS if view(id_, before) != truth[id_]]
    assume(changed)
    first = data.draw(st.sampled_from(changed))
    concerned = group_members(mirror.stored[first], truth[first]) | {first}

    mirror.settle([first], chance, most=60)

    assert all(mirror.stored[id_] == truth[id_] for id_ in concerned)


@given(st.permutations(IDS), st.integers(2, 6), st.integers(1, 5), st.data(), st.randoms(use_true_random=False))
@example(list(IDS), 3, 1, None, random.Random(1))
def test_a_move_has_exactly_one_became_primary(
    order: list[str], size: int, place: int, data: st.DataObject | None, chance: random.Random
) -> None:
    """One member became primary, one lost it, all others followed; one read of each is enough."""
    members = order[:size]
    new = [members[place % size], *members[: place % size], *members[place % size + 1 :]]
    assume(new[0] != members[0])
    mirror = Mirror(
        {id_: view(id_, [tuple(new)]) for id_ in members}, {id_: view(id_, [tuple(members)]) for id_ in members}
    )
    first = data.draw(st.sampled_from(members)) if data is not None else members[0]

    mirror.settle([first], chance, most=60)

    assert mirror.stored == mirror.truth
    assert mirror.reads <= size
    assert roles_of(mirror, "became_primary") == [new[0]]
    assert roles_of(mirror, "lost_primary") == [members[0]]
    assert sorted(roles_of(mirror, "followed")) == sorted(set(members) - {new[0], members[0]})


@given(st.permutations(IDS), st.integers(1, 5), st.randoms(use_true_random=False))
def test_no_became_primary_if_a_newcomer_takes_over(order: list[str], size: int, chance: random.Random) -> None:
    """At first sight only a status is emitted, so the known members emit lost_primary or followed."""
    newcomer, *members = order[: size + 1]
    truth = {id_: view(id_, [(newcomer, *members)]) for id_ in (newcomer, *members)}
    mirror = Mirror(truth, {id_: view(id_, [tuple(members)]) for id_ in members})

    mirror.settle([newcomer], chance, most=60)

    assert mirror.stored == truth
    assert roles_of(mirror, "became_primary") == []
    assert roles_of(mirror, "lost_primary") == [members[0]]
    assert sorted(roles_of(mirror, "followed")) == sorted(members[1:])


@given(st.permutations(IDS), st.integers(2, 6), st.randoms(use_true_random=False))
def test_a_deleted_primary_is_followed_by_one(order: list[str], size: int, chance: random.Random) -> None:
    """After the deletion of a primary one member becomes it, the others follow, and the deleted one emits no move."""
    dead, *rest = order[:size]
    truth = {id_: view(id_, [tuple(rest)]) for id_ in rest} | {dead: MirrorState(dead, "DELETED", None, dead, ())}
    mirror = Mirror(truth, {id_: view(id_, [tuple(order[:size])]) for id_ in order[:size]})

    mirror.settle([dead], chance, most=60)

    assert mirror.stored == truth
    assert roles_of(mirror, "became_primary") == [rest[0]]
    assert sorted(roles_of(mirror, "followed")) == sorted(rest[1:])
    assert roles_of(mirror, "lost_primary") == []


@given(st.permutations(IDS), st.integers(2, 6), st.randoms(use_true_random=False))
def test_a_deleted_primary_that_still_lists_its_group_ends(order: list[str], size: int, chance: random.Random) -> None:
    """Meld may keep the lists of a deleted connection: they contradict no member, and reads end."""
    dead, *rest = order[:size]
    truth = {id_: view(id_, [tuple(rest)]) for id_ in rest}
    truth[dead] = replace(view(dead, [tuple(order[:size])]), status="DELETED")
    mirror = Mirror(truth, {id_: view(id_, [tuple(order[:size])]) for id_ in order[:size]})

    mirror.settle([dead], chance, most=60)

    assert mirror.stored == truth
    assert mirror.reads <= size


# Everything that can happen to small groups, one after the other, and every choice of the moments that are read.


def state_as(id_: str, seen: event_oracle.View) -> MirrorState:
    return MirrorState(id_, seen.status, seen.reason, seen.primary or id_, tuple(sorted(seen.duplicates)))


def changes_between(id_: str, known: event_oracle.View | None, seen: event_oracle.View) -> list[tuple[object, ...]]:
    said: list[tuple[object, ...]] = []
    for change in decide(state_as(id_, known) if known else None, state_as(id_, seen), {}, None).changes:
        if isinstance(change, PrimaryDuplicateMoved):
            said.append((change.role, change.previous, change.current))
        else:
            kind = "status" if isinstance(change, StatusChanged) else "reason"
            before = (change.previous.status, change.previous.status_reason) if change.previous else None
            said.append((kind, before, (change.current.status, change.current.status_reason)))
    return said


@pytest.mark.parametrize(("ids", "depth"), [("ab", 3), ("abc", 3), ("abcd", 2)])
def test_whatever_happens_the_contract_is_kept(ids: str, depth: int) -> None:
    """Known or not at first, read at any of the moments and at the last: what is told is what the contract says.

    And it is a chain, from the primary that was known to the one that is: what moved on meanwhile is not made up for.
    """
    agreed: dict[tuple[str, event_oracle.View | None, event_oracle.View], list[tuple[object, ...]]] = {}
    for world in event_oracle.worlds(ids):
        for _acts, worlds_ in event_oracle.histories(world, depth):
            for id_ in ids:
                views = [each.view(id_) for each in worlds_]
                for is_known, *is_read in product((True, False), repeat=max(len(views) - 1, 1)):
                    known = views[0] if is_known else None
                    primary = event_oracle.primary_of(id_, known) if known else None
                    for seen in (*compress(views[1:-1], is_read), views[-1]):
                        key = (id_, known, seen)
                        if key not in agreed:
                            agreed[key] = changes_between(*key)
                            assert agreed[key] == event_oracle.expected_events(*key), key
                        primary = _followed(primary, agreed[key])
                        known = seen
                    if all(view.status not in event_oracle.DEAD for view in views):
                        assert primary in {None, event_oracle.primary_of(id_, views[-1])}


def _followed(primary: str | None, said: list[tuple[object, ...]]) -> str | None:
    for role, previous, current in said:
        if role not in {"status", "reason"}:
            assert primary in {None, previous}
            primary = str(current)
    return primary


def test_each_act_has_the_roles_of_the_contract() -> None:
    """One act with all members known: who became the primary, who lost it, who followed, and nothing else."""
    for world in event_oracle.worlds("abcd"):
        for act, after in event_oracle.acts(world):
            said = {id_: changes_between(id_, world.view(id_), after.view(id_)) for id_ in "abcd"}
            roles = {(change[0], id_) for id_, changes in said.items() for change in changes} - {
                (kind, id_) for kind in ("status", "reason") for id_ in "abcd"
            }
            assert roles == _expected(act, world, after), act


def _expected(act: event_oracle.Act, world: event_oracle.World, after: event_oracle.World) -> set[tuple[str, str]]:
    group = world.group_of(act.id)
    others = group.members - {act.id}
    match act.kind:
        case "moved":
            followed = others - {group.primary}
            return {("became_primary", act.id), ("lost_primary", group.primary), *_each("followed", followed)}
        case "joined" if act.primary == act.id:
            # A newcomer to the group, which was its own primary before.
            (former,) = {world.group_of(id_) for id_ in after.group_of(act.id).members - {act.id}}
            return {("lost_primary", former.primary), *_each("followed", former.members - {former.primary})}
        case "joined":
            return {("lost_primary", act.id)}
    if group.primary == act.id and act.primary:
        return {("became_primary", act.primary), *_each("followed", others - {act.primary})}
    # Who left a group behind is its own primary now; the dead say nothing, nor does who stays as it was.
    return {("became_primary", act.id)} if act.kind == "left" else set()


def _each(role: str, ids: frozenset[str]) -> set[tuple[str, str]]:
    return {(role, id_) for id_ in ids}
