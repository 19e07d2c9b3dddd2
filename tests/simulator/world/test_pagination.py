from datetime import timedelta

import pytest

from simulator.errors import MalformedError
from simulator.world import pagination
from simulator.world.new_connection import NewConnection
from simulator.world.quirks import Quirks
from simulator.world.vocabulary import HEALTHY, LOGIN_REQUIRED
from simulator.world.world import World
from tests.simulator.fakes import NOON


def ids(world: World, **params: str) -> list[str]:
    """Return the ids on the page of a query."""
    return [one["id"] for one in world.page(pagination.parse_list_query(params))["connections"]]


def newest_first(world: World, count: int) -> list[str]:
    """Create connections and return their ids, newest first."""
    return [world.add().id for _ in range(count)][::-1]


def test_a_page_has_the_remaining_count(world: World) -> None:
    """The envelope counts the items on the page and those after it."""
    newest_first(world, 25)

    page = world.page(pagination.parse_list_query({}))

    assert (page["count"], page["remaining"], len(page["connections"])) == (10, 15, 10)


def test_forward_pagination_lists_every_connection_once(world: World) -> None:
    """Repeating with the last key until nothing remains lists every connection once, newest first."""
    expected = newest_first(world, 25)
    seen: list[str] = []
    params = {"limit": "7"}

    while True:
        page = world.page(pagination.parse_list_query(params))
        seen += [one["id"] for one in page["connections"]]
        if not page["remaining"]:
            break
        params = {"limit": "7", "after": page["connections"][-1]["key"]}

    assert expected == seen


def test_new_connections_do_not_move_a_cursor(world: World) -> None:
    """A page after a key stays the same when connections are created."""
    expected = newest_first(world, 20)
    key = world.page(pagination.parse_list_query({}))["connections"][-1]["key"]
    newest_first(world, 5)

    assert expected[10:] == ids(world, after=key)


def test_backward_pagination_returns_the_page_before(world: World) -> None:
    """The page before a key has the nearest items, newest first; remaining counts that direction."""
    expected = newest_first(world, 20)
    key = world.page(pagination.parse_list_query({"limit": "15"}))["connections"][-1]["key"]

    page = world.page(pagination.parse_list_query({"before": key, "limit": "5"}))

    assert expected[9:14] == [one["id"] for one in page["connections"]]
    assert page["remaining"] == 9


@pytest.mark.parametrize(("shift", "first"), [(1, 9), (-1, 11)])
def test_a_shifted_page_repeats_or_misses_an_item(world: World, shift: int, first: int) -> None:
    """A shift moves the start of a page by one item."""
    expected = newest_first(world, 30)
    key = world.page(pagination.parse_list_query({}))["connections"][-1]["key"]

    page = world.page(pagination.parse_list_query({"after": key}), shift=shift)

    assert expected[first] == page["connections"][0]["id"]


def test_filters_select_matching_connections(world: World) -> None:
    """Each filter alone finds the one matching connection."""
    details = NewConnection(external_customer_id="c-1", institution_id="i-1", created_at=NOON - timedelta(days=9))
    wanted = world.add(LOGIN_REQUIRED, details)
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
    """Count and remaining include matching connections only."""
    for number in range(12):
        world.add(LOGIN_REQUIRED if number % 2 else HEALTHY)

    page = world.page(pagination.parse_list_query({"statuses": "ACTIVE", "limit": "4"}))

    assert (page["count"], page["remaining"]) == (4, 2)


def test_a_deleted_connection_leaves_the_list_only_by_a_quirk(world: World) -> None:
    """DELETED connections are listed unless the quirk deleted_gone is on."""
    connection = world.add()
    world.delete(connection.id)
    before = ids(world)
    world.quirks = Quirks(deleted_gone=True)

    assert (before, ids(world)) == ([connection.id], [])


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "ten"},
        {"after": "nonsense"},
        {"before": "Ä"},
        {"after": pagination.encode_cursor(1), "before": pagination.encode_cursor(2)},
        {"startDate": "yesterday"},
    ],
)
def test_an_invalid_query_is_malformed(params: dict[str, str]) -> None:
    """Invalid limits, keys and dates are refused."""
    with pytest.raises(MalformedError):
        pagination.parse_list_query(params)
