import pytest

from simulator.errors import AbsentError
from simulator.world.quirks import Quirks
from simulator.world.world import World
from tests.simulator.assertions import DELETION, STATUS, group


@pytest.mark.parametrize(
    ("habits", "act", "expected"),
    [
        (Quirks(expiry_announced=True), "expire", [STATUS]),
        (Quirks(deletion_changes_status=True), "delete", [DELETION, STATUS]),
    ],
)
def test_an_end_may_be_announced_as_a_status_change(
    world: World, habits: Quirks, act: str, expected: list[str]
) -> None:
    """Two habits add the STATUS_CHANGE that Meld's documentation leaves open."""
    world.habits = habits
    connection = world.start()

    assert expected == [one.event_type for one in getattr(world, act)(connection.id)]


def test_a_promotion_may_be_silent(world: World) -> None:
    """A habit leaves out the STATUS_CHANGE of the member that becomes primary."""
    world.habits = Quirks(promotion_silent=True)
    refreshed, former = group(world, 2)

    assert [former] == [one.connection_id for one in world.refresh(refreshed) if one.event_type == STATUS]


def test_third_members_may_be_announced(world: World) -> None:
    """A habit announces every member whose group changed."""
    world.habits = Quirks(third_announced=True)
    refreshed, third, former = group(world, 3)

    announced = {one.connection_id for one in world.refresh(refreshed) if one.event_type == STATUS}

    assert {refreshed, third, former} == announced


def test_a_deleted_connection_stays_readable_by_default(world: World) -> None:
    """Meld's guide confirms a deletion by reading it."""
    connection = world.add()
    world.delete(connection.id)

    assert world.view(connection.id)["status"] == "DELETED"


def test_a_deleted_connection_may_be_gone(world: World) -> None:
    """A habit answers with absence, while the truth stays visible to whoever steers."""
    world.habits = Quirks(deleted_gone=True)
    connection = world.add()
    world.delete(connection.id)

    with pytest.raises(AbsentError):
        world.view(connection.id)
    assert world.truth(connection.id)["status"] == "DELETED"


def test_deleted_ids_may_stay_listed(world: World) -> None:
    """A habit keeps the ids of deleted members, as long as there are duplicates at all."""
    world.habits = Quirks(deleted_kept=True)
    a, b, c = group(world, 3)
    world.delete(a)

    assert [c, a] == world.view(b)["duplicateConnectionIds"]
    world.delete(b)
    assert world.view(c)["duplicateConnectionIds"] is None


def test_the_shape_of_having_no_duplicates_is_a_habit(world: World) -> None:
    """No duplicates are null, or an empty list."""
    connection = world.add()
    before = world.view(connection.id)["duplicateConnectionIds"]
    world.habits = Quirks(empty_list=True)

    assert (before, world.view(connection.id)["duplicateConnectionIds"]) == (None, [])


def test_a_connection_may_list_itself(world: World) -> None:
    """A habit puts the connection among its own duplicates."""
    world.habits = Quirks(self_listed=True)
    a, b = group(world, 2)

    assert [a, b] == world.view(a)["duplicateConnectionIds"]


def test_a_providers_credential_is_there_unless_switched_off(world: World) -> None:
    """The details of the provider hold an accessToken by default, so that redaction is always exercised."""
    connection = world.add()
    before = world.view(connection.id)["serviceProviderDetails"]
    world.habits = Quirks(credentials=False)
    after = world.view(connection.id)["serviceProviderDetails"]

    assert before["accessToken"].startswith("access-")
    assert "accessToken" not in after
