"""The laws of duplicate groups, after any sequence of acts."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from simulator.errors import ImpossibleError
from simulator.world.connection import SimulatedConnection
from simulator.world.new_connection import NewConnection
from simulator.world.quirks import Quirks
from simulator.world.vocabulary import BREAKAGES, INACTIVE, OPEN, MeldState
from simulator.world.webhook_payloads import Announcement
from simulator.world.world import World
from tests.simulator.assertions import DELETION, STATUS
from tests.simulator.fakes import Clock

STATES = [*BREAKAGES, MeldState("DELETED"), MeldState("ACTIVE"), MeldState("HIBERNATING", "WINTER")]
#: Few customers, so that their connections meet in groups.
CUSTOMERS = ["anna", "bert"]
NUMBERS = st.integers(min_value=0, max_value=1_000)


class Laws(RuleBasedStateMachine):
    """Acts on a world at random; whatever is impossible must change nothing."""

    @initialize(promotion_silent=st.booleans(), third_announced=st.booleans(), deleted_kept=st.booleans())
    def begin(self, **habits: bool) -> None:
        """Any habits are lawful."""
        self.clock = Clock()
        self.habits = Quirks(**habits)
        self.world = World(clock=self.clock, random=Random(1), habits=self.habits)
        self.terminal: dict[str, MeldState] = {}

    @rule(customer=st.sampled_from(CUSTOMERS), other=st.none() | NUMBERS)
    def connect(self, customer: str, other: int | None) -> None:
        """A customer comes through the widget, perhaps with a login that is used already."""
        newcomer = self.world.start(NewConnection(external_customer_id=customer))
        self.act(lambda: self.world.complete(newcomer.id, duplicate_of=self.some(other).id if other else None))

    @rule(customer=st.sampled_from(CUSTOMERS))
    def start(self, customer: str) -> None:
        """A customer opens the widget and leaves it there."""
        self.world.start(NewConnection(external_customer_id=customer))

    @rule(one=NUMBERS, other=NUMBERS)
    def join(self, one: int, other: int) -> None:
        """Two connections turn out to share a login."""
        self.act(lambda: self.world.join(self.some(one).id, self.some(other).id))

    @rule(one=NUMBERS, name=st.sampled_from(["heal", "repair", "refresh", "aggregate", "delete", "expire", "damage"]))
    def happen(self, one: int, name: str) -> None:
        """Something happens to a connection."""
        self.act(lambda: getattr(self.world, name)(self.some(one).id))

    @rule(one=NUMBERS, state=st.sampled_from(STATES))
    def change(self, one: int, state: MeldState) -> None:
        """A connection gets into any state."""
        self.act(lambda: self.world.change(self.some(one).id, state))

    @rule(hours=st.integers(min_value=1, max_value=5))
    def wait(self, hours: int) -> None:
        """Time passes, and what was never finished expires."""
        self.clock.advance(hours=hours)
        self.act(self.world.expire_due)

    @invariant()
    def all_members_name_one_of_them_as_primary(self) -> None:
        """The living members of a group name the same primary, which is the most recently aggregated of them."""
        for members in self.groups():
            newest = max(members, key=lambda member: member.rank)

            assert {newest.id} == {member.primary_id for member in members}

    @invariant()
    def all_others_are_inactive_duplicates(self) -> None:
        """Whoever is not primary is an inactive duplicate, and nobody else is."""
        for one in self.world.connections():
            assert (one.state == INACTIVE) == (one.primary_id not in (None, one.id))

    @invariant()
    def members_list_each_other(self) -> None:
        """The duplicates of a member are the other living ones, most recently aggregated first."""
        for members in self.groups():
            ranked = sorted(members, key=lambda member: member.rank, reverse=True)
            for member in members:
                living = [one for one in member.duplicate_ids if self.world.connection(one).living]

                assert [one.id for one in ranked if one.id != member.id] == living
                assert self.habits.deleted_kept or living == list(member.duplicate_ids)

    @invariant()
    def the_lone_and_the_dead_have_no_duplicates(self) -> None:
        """Whoever shares its login with no living connection has nulls in both fields."""
        grouped = {member.id for members in self.groups() for member in members}
        for one in self.world.connections():
            if one.id not in grouped:
                assert (one.primary_id, one.duplicate_ids) == (None, ())

    @invariant()
    def an_end_is_an_end(self) -> None:
        """Nothing leaves DELETED or EXPIRED."""
        for connection_id, state in self.terminal.items():
            assert self.world.connection(connection_id).state == state
        self.terminal |= {one.id: one.state for one in self.world.connections() if not one.living}

    @invariant()
    def an_institution_comes_with_the_widget(self) -> None:
        """Only what was never completed may lack an institution."""
        for one in self.world.connections():
            assert one.institution or one.state == OPEN or not one.living

    def act(self, act: Callable[[], list[Announcement]]) -> None:
        """Do it if it is possible, and hold the announcements against what has changed."""
        before = {one.id: one for one in self.world.connections()}
        announcements: list[Announcement] = []
        if before:
            with suppress(ImpossibleError):
                announcements = act()
        self.check(announcements, before)

    def check(self, announcements: list[Announcement], before: dict[str, SimulatedConnection]) -> None:
        """Every change of a state is announced, but for promotions that are silent by habit, and for ends."""
        changed = {one.id for one in self.world.connections() if one.id in before and one.state != before[one.id].state}
        announced = {one.connection_id for one in announcements if one.event_type == STATUS}
        ended = {one for one in changed if not self.world.connection(one).living}
        promoted = {one for one in changed if before[one].state == INACTIVE} - ended
        expected = changed - ended - (promoted if self.habits.promotion_silent else set())

        assert expected <= announced
        assert self.habits.third_announced or expected == announced
        assert {one.connection_id for one in announcements if one.event_type == DELETION} == {
            one for one in ended if self.world.connection(one).state.status == "DELETED"
        }

    def some(self, number: int) -> SimulatedConnection:
        """Any connection there is."""
        return self.world.numbered(number % len(self.world) + 1)

    def groups(self) -> list[list[SimulatedConnection]]:
        """The living members of every group of at least two."""
        groups = defaultdict(list)
        for one in self.world.connections():
            if one.living and one.group is not None:
                groups[one.group].append(one)
        return [members for members in groups.values() if len(members) > 1]


Laws.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLaws = Laws.TestCase
