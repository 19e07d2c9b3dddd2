"""The rules of duplicate groups hold after any sequence of actions (stateful property tests)."""

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
from simulator.world.vocabulary import BROKEN_STATES, IN_PROGRESS, INACTIVE_DUPLICATE, MeldState
from simulator.world.webhook_payloads import WebhookEvent
from simulator.world.world import World
from tests.simulator.assertions import DELETION, STATUS
from tests.simulator.fakes import Clock
from tests.support.random_rounds import rounds

STATES = [*BROKEN_STATES, MeldState("DELETED"), MeldState("ACTIVE"), MeldState("HIBERNATING", "WINTER")]
#: Few customers, so that their connections form groups.
CUSTOMERS = ["anna", "bert"]
NUMBERS = st.integers(min_value=0, max_value=1_000)


class Laws(RuleBasedStateMachine):
    """Runs random actions on a world; actions that are not permitted must change nothing."""

    @initialize(promotion_silent=st.booleans(), third_announced=st.booleans(), deleted_kept=st.booleans())
    def begin(self, **quirks: bool) -> None:
        """Choose any quirks."""
        self.clock = Clock()
        self.quirks = Quirks(**quirks)
        self.world = World(clock=self.clock, random=Random(1), quirks=self.quirks)
        self.terminal: dict[str, MeldState] = {}

    @rule(customer=st.sampled_from(CUSTOMERS), other=st.none() | NUMBERS)
    def connect(self, customer: str, other: int | None) -> None:
        """A customer completes the widget, optionally with the login of another connection."""
        newcomer = self.world.start(NewConnection(external_customer_id=customer))
        self.action(lambda: self.world.complete(newcomer.id, duplicate_of=self.some(other).id if other else None))

    @rule(customer=st.sampled_from(CUSTOMERS))
    def start(self, customer: str) -> None:
        """A customer opens the widget and does not complete it."""
        self.world.start(NewConnection(external_customer_id=customer))

    @rule(one=NUMBERS, other=NUMBERS)
    def join(self, one: int, other: int) -> None:
        """A connection joins the group of another one."""
        self.action(lambda: self.world.join(self.some(one).id, self.some(other).id))

    @rule(
        one=NUMBERS,
        name=st.sampled_from(["heal", "repair", "refresh", "aggregate", "delete", "expire", "break_connection"]),
    )
    def happen(self, one: int, name: str) -> None:
        """Run any action on a connection."""
        self.action(lambda: getattr(self.world, name)(self.some(one).id))

    @rule(one=NUMBERS, state=st.sampled_from(STATES))
    def change(self, one: int, state: MeldState) -> None:
        """Put a connection into any state."""
        self.action(lambda: self.world.set_state(self.some(one).id, state))

    @rule(hours=st.integers(min_value=1, max_value=5))
    def wait(self, hours: int) -> None:
        """Time passes, and connections in progress expire."""
        self.clock.advance(hours=hours)
        self.action(self.world.expire_due)

    @invariant()
    def all_members_show_the_same_primary(self) -> None:
        """The live members of a group show the same primary: the most recently aggregated one."""
        for members in self.groups():
            newest = max(members, key=lambda member: member.rank)

            assert {newest.id} == {member.primary_id for member in members}

    @invariant()
    def all_others_are_inactive_duplicates(self) -> None:
        """Exactly the members that are not primary are inactive duplicates."""
        for one in self.world.connections():
            assert (one.state == INACTIVE_DUPLICATE) == (one.primary_id not in (None, one.id))

    @invariant()
    def members_list_each_other(self) -> None:
        """The duplicates of a member are the other live ones, most recently aggregated first."""
        for members in self.groups():
            ranked = sorted(members, key=lambda member: member.rank, reverse=True)
            for member in members:
                living = [one for one in member.duplicate_ids if self.world.connection(one).is_alive]

                assert [one.id for one in ranked if one.id != member.id] == living
                assert self.quirks.deleted_kept or living == list(member.duplicate_ids)

    @invariant()
    def connections_outside_groups_have_no_duplicates(self) -> None:
        """A connection that shares its login with no live connection has both duplicate fields empty."""
        grouped = {member.id for members in self.groups() for member in members}
        for one in self.world.connections():
            if one.id not in grouped:
                assert (one.primary_id, one.duplicate_ids) == (None, ())

    @invariant()
    def terminal_states_are_final(self) -> None:
        """No connection leaves DELETED or EXPIRED."""
        for connection_id, state in self.terminal.items():
            assert self.world.connection(connection_id).state == state
        self.terminal |= {one.id: one.state for one in self.world.connections() if not one.is_alive}

    @invariant()
    def an_institution_comes_with_the_widget(self) -> None:
        """Only a connection that was never completed may lack an institution."""
        for one in self.world.connections():
            assert one.institution or one.state == IN_PROGRESS or not one.is_alive

    def action(self, action: Callable[[], list[WebhookEvent]]) -> None:
        """Run the action if it is permitted, and compare its webhook events with the changes."""
        before = {one.id: one for one in self.world.connections()}
        events: list[WebhookEvent] = []
        if before:
            with suppress(ImpossibleError):
                events = action()
        self.check(events, before)

    def check(self, events: list[WebhookEvent], before: dict[str, SimulatedConnection]) -> None:
        """Every state change has a STATUS_CHANGE, except silent promotions (a quirk) and terminal states."""
        changed = {one.id for one in self.world.connections() if one.id in before and one.state != before[one.id].state}
        announced = {one.connection_id for one in events if one.event_type == STATUS}
        ended = {one for one in changed if not self.world.connection(one).is_alive}
        promoted = {one for one in changed if before[one].state == INACTIVE_DUPLICATE} - ended
        expected = changed - ended - (promoted if self.quirks.promotion_silent else set())

        assert expected <= announced
        assert self.quirks.third_announced or expected == announced
        assert {one.connection_id for one in events if one.event_type == DELETION} == {
            one for one in ended if self.world.connection(one).state.status == "DELETED"
        }

    def some(self, number: int) -> SimulatedConnection:
        """Return any of the connections."""
        return self.world.by_number(number % len(self.world) + 1)

    def groups(self) -> list[list[SimulatedConnection]]:
        """Return the live members of every group of at least two."""
        groups = defaultdict(list)
        for one in self.world.connections():
            if one.is_alive and one.group is not None:
                groups[one.group].append(one)
        return [members for members in groups.values() if len(members) > 1]


Laws.TestCase.settings = settings(max_examples=rounds(50), stateful_step_count=40, deadline=None)
TestLaws = Laws.TestCase
