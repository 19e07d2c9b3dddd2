from datetime import timedelta

import pytest

from simulator.errors import MalformedError
from simulator.world import listing
from simulator.world.new_connection import NewConnection
from simulator.world.quirks import Quirks
from simulator.world.vocabulary import HEALTHY, LOGIN_REQUIRED
from simulator.world.world import World
from tests.simulator.fakes import NOON


def ids(world: World, **params: str) -> list[str]:
    """The ids that a query lists."""
    return [one["id"] for one in world.page(listing.parse(params))["connections"]]


def newest_first(world: World, count: int) -> list[str]:
    """The ids of so many new connections, as the list has them."""
    return [world.add().id for _ in range(count)][::-1]


def test_a_page_tells_how_many_remain(world: World) -> None:
    """The envelope counts the items on the page and those after it."""
    newest_first(world, 25)

    page = world.page(listing.parse({}))

    assert (page["count"], page["remaining"], len(page["connections"])) == (10, 15, 10)


def test_paging_forward_sees_everything_once(world: World) -> None:
    """Repeating with the last key until nothing remains lists every connection once, newest first."""
    expected = newest_first(world, 25)
    seen: list[str] = []
    params = {"limit": "7"}

    while True:
        page = world.page(listing.parse(params))
        seen += [one["id"] for one in page["connections"]]
        if not page["remaining"]:
            break
        params = {"limit": "7", "after": page["connections"][-1]["key"]}

    assert expected == seen


def test_new_connections_do_not_disturb_a_cursor(world: World) -> None:
    """A page after a key is the same, whatever has been created since."""
    expected = newest_first(world, 20)
    key = world.page(listing.parse({}))["connections"][-1]["key"]
    newest_first(world, 5)

    assert expected[10:] == ids(world, after=key)


def test_paging_backward_gives_the_page_just_before(world: World) -> None:
    """Before a key come the nearest items, still newest first, and the rest remains in that direction."""
    expected = newest_first(world, 20)
    key = world.page(listing.parse({"limit": "15"}))["connections"][-1]["key"]

    page = world.page(listing.parse({"before": key, "limit": "5"}))

    assert expected[9:14] == [one["id"] for one in page["connections"]]
    assert page["remaining"] == 9


@pytest.mark.parametrize(("shift", "first"), [(1, 9), (-1, 11)])
def test_a_shifted_page_repeats_an_item_or_misses_one(world: World, shift: int, first: int) -> None:
    """A shift moves the start of a page by one item."""
    expected = newest_first(world, 30)
    key = world.page(listing.parse({}))["connections"][-1]["key"]

    page = world.page(listing.parse({"after": key}), shift=shift)

    assert expected[first] == page["connections"][0]["id"]


def test_filters_leave_out_what_does_not_match(world: World) -> None:
    """Each filter alone finds the one connection that it fits."""
    opening = NewConnection(external_customer_id="c-1", institution_id="i-1", created_at=NOON - timedelta(days=9))
    wanted = world.add(LOGIN_REQUIRED, opening)
    world.add(HEALTHY, NewConnection(institution_id="Hd5KfNyGp8JtQxVwMrBe3c"))

    filters = {
        "customerId": wanted.customer_id,
        "externalCustomerId": "c-1",
        "institutionId": "i-1",
        "statuses": "DEGRADED,RECONNECT_REQUIRED",
        "serviceProviders": "PLAID",
        "endDate": "2025-12-30",
    }

    assert {name: [wanted.id] for name in filters} == {
        name: ids(world, **{name: value}) for name, value in filters.items()
    }
    assert ids(world, startDate="2025-12-25", endDate="2026-01-01", statuses="ACTIVE") == []


def test_filtered_pages_count_what_matches(world: World) -> None:
    """What a filter leaves out does not remain."""
    for number in range(12):
        world.add(LOGIN_REQUIRED if number % 2 else HEALTHY)

    page = world.page(listing.parse({"statuses": "ACTIVE", "limit": "4"}))

    assert (page["count"], page["remaining"]) == (4, 2)


def test_a_deleted_connection_leaves_the_list_only_by_habit(world: World) -> None:
    """DELETED connections are listed, unless Meld is told to forget them."""
    connection = world.add()
    world.delete(connection.id)
    before = ids(world)
    world.habits = Quirks(deleted_gone=True)

    assert (before, ids(world)) == ([connection.id], [])


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "ten"},
        {"after": "nonsense"},
        {"before": "Ä"},
        {"after": listing.key(1), "before": listing.key(2)},
        {"startDate": "yesterday"},
    ],
)
def test_a_bad_query_is_malformed(params: dict[str, str]) -> None:
    """Limits, keys and dates that cannot be read are refused."""
    with pytest.raises(MalformedError):
        listing.parse(params)
