import pytest

from simulator.errors import AbsentError
from simulator.world.quirks import Quirks
from simulator.world.world import World
from tests.simulator.assertions import DELETION, STATUS, group


@pytest.mark.parametrize(
    ("quirks", "action", "expected"),
    [
        (Quirks(expiry_announced=True), "expire", [STATUS]),
        (Quirks(deletion_changes_status=True), "delete", [DELETION, STATUS]),
    ],
)
def test_a_terminal_state_may_send_a_status_change(
    world: World, quirks: Quirks, action: str, expected: list[str]
) -> None:
    """Two quirks add the STATUS_CHANGE that Meld's documentation leaves open."""
    world.quirks = quirks
    connection = world.start()

    assert expected == [one.event_type for one in getattr(world, action)(connection.id)]


def test_a_promotion_may_be_silent(world: World) -> None:
    """A quirk omits the STATUS_CHANGE of the member that becomes primary."""
    world.quirks = Quirks(promotion_silent=True)
    refreshed, former = group(world, 2)

    assert [former] == [one.connection_id for one in world.refresh(refreshed) if one.event_type == STATUS]


def test_third_members_may_get_a_status_change(world: World) -> None:
    """A quirk sends a STATUS_CHANGE for every member whose group changed."""
    world.quirks = Quirks(third_announced=True)
    refreshed, third, former = group(world, 3)

    announced = {one.connection_id for one in world.refresh(refreshed) if one.event_type == STATUS}

    assert {refreshed, third, former} == announced


def test_a_deleted_connection_stays_readable_by_default(world: World) -> None:
    """Meld's guide confirms a deletion by a read."""
    connection = world.add()
    world.delete(connection.id)

    assert world.view(connection.id)["status"] == "DELETED"


def test_a_deleted_connection_may_be_gone(world: World) -> None:
    """A quirk hides deleted connections from the API, but not from the control API."""
    world.quirks = Quirks(deleted_gone=True)
    connection = world.add()
    world.delete(connection.id)

    with pytest.raises(AbsentError):
        world.view(connection.id)
    assert world.truth(connection.id)["status"] == "DELETED"


def test_deleted_ids_may_stay_listed(world: World) -> None:
    """A quirk keeps the ids of deleted members while there are duplicates."""
    world.quirks = Quirks(deleted_kept=True)
    a, b, c = group(world, 3)
    world.delete(a)

    assert [c, a] == world.view(b)["duplicateConnectionIds"]
    world.delete(b)
    assert world.view(c)["duplicateConnectionIds"] is None


def test_no_duplicates_are_null_or_an_empty_list(world: World) -> None:
    """Without duplicates the list is null, or empty by a quirk."""
    connection = world.add()
    before = world.view(connection.id)["duplicateConnectionIds"]
    world.quirks = Quirks(empty_list=True)

    assert (before, world.view(connection.id)["duplicateConnectionIds"]) == (None, [])


def test_a_connection_may_list_itself(world: World) -> None:
    """A quirk lists the connection among its own duplicates."""
    world.quirks = Quirks(self_listed=True)
    a, b = group(world, 2)

    assert [a, b] == world.view(a)["duplicateConnectionIds"]


def test_a_providers_credential_is_there_unless_switched_off(world: World) -> None:
    """The provider's details contain an accessToken by default, so that every test exercises redaction."""
    connection = world.add()
    before = world.view(connection.id)["serviceProviderDetails"]
    world.quirks = Quirks(credentials=False)
    after = world.view(connection.id)["serviceProviderDetails"]

    assert before["accessToken"].startswith("access-")
    assert "accessToken" not in after
