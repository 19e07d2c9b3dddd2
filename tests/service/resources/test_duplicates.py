from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runtime.database import Database
from schemas.api_responses import DuplicateGroup
from service.errors import NotFoundError
from service.resources.duplicates import count_disagreeing_groups, get_duplicate_group
from tests.support import row_factory
from tests.support.row_factory import connection

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def store_connection(database: Database, id_: str, primary: str | None, others: list[str], **fields: Any) -> None:
    row = connection(id_, **{"status": "ACTIVE", "grouped_at": NOW, **fields})
    row.primary_duplicate_id = primary
    row.duplicate_ids = others
    with database.write() as session:
        session.add(row)


def group_of(database: Database, id_: str) -> DuplicateGroup:
    return get_duplicate_group(database, id_)


def test_a_lone_connection_is_a_group_of_one(database: Database) -> None:
    """A connection without duplicates has converged."""
    store_connection(database, "a", None, [])

    group = group_of(database, "a")

    assert (group.converged, [member.id for member in group.members], group.since) == (True, ["a"], NOW)


def test_members_that_agree_have_converged(database: Database) -> None:
    """A group that agrees has converged since its last member changed; each member shows its own view."""
    store_connection(database, "a", "b", ["b", "c"])
    store_connection(database, "b", "b", ["a", "c"], grouped_at=NOW + timedelta(seconds=5))
    store_connection(database, "c", "b", ["b", "a"])

    groups = [group_of(database, id_) for id_ in "abc"]

    assert [group.converged for group in groups] == [True] * 3
    assert {group.since for group in groups} == {NOW + timedelta(seconds=5)}
    assert [(member.id, member.primary_duplicate_id) for member in groups[2].members] == [(id_, "b") for id_ in "abc"]


@pytest.mark.parametrize(
    ("primary", "others"), [("a", ["a", "b"]), ("b", ["b"]), (None, [])], ids=["primary", "list", "alone"]
)
def test_a_group_with_an_outdated_member_has_not_converged(
    database: Database, primary: str | None, others: list[str]
) -> None:
    """An outdated member names another primary, a shorter list or no group; each member that names it shows this."""
    store_connection(database, "a", "b", ["b", "c"])
    store_connection(database, "b", "b", ["a", "c"])
    store_connection(database, "c", primary, others)

    assert group_of(database, "a").converged is False


def test_a_group_with_an_unread_member_has_not_converged(database: Database) -> None:
    """A member that was never read is listed without fields."""
    store_connection(database, "a", "a", ["b"])

    group = group_of(database, "a")

    assert (group.converged, group.members[1].id, group.members[1].status) == (False, "b", None)


def test_deleted_members_do_not_count(database: Database) -> None:
    """A deleted member that is still listed, or still lists others, is ignored."""
    store_connection(database, "a", "a", ["b", "gone"])
    store_connection(database, "b", "a", ["a"])
    store_connection(database, "gone", None, [], status="DELETED")

    assert group_of(database, "a").converged is True


def test_a_group_with_a_deleted_primary_has_not_converged(database: Database) -> None:
    """Its members agree on a deleted primary: their next reads will show another one."""
    store_connection(database, "a", "gone", ["b", "gone"])
    store_connection(database, "b", "gone", ["a", "gone"])
    store_connection(database, "gone", None, [], status="DELETED")

    groups = [group_of(database, id_) for id_ in ("a", "b", "gone")]

    assert [(group.converged, len(group.members)) for group in groups] == [(False, 3)] * 3


@pytest.mark.parametrize("primary", ["a", "b"])
def test_a_member_without_a_group_of_its_own_is_listed(database: Database, primary: str) -> None:
    """A connection that was read alone has not converged with connections of its customer that name it."""
    store_connection(database, "a", None, [], customer_id="one")
    store_connection(database, "b", primary, ["a", "c"], customer_id="one")
    store_connection(database, "c", primary, ["a", "b"], customer_id="one")
    store_connection(database, "other", "other", ["another"], customer_id="one")
    store_connection(database, "dead", primary, ["a"], customer_id="one", status="DELETED")

    group = group_of(database, "a")

    assert (group.converged, [member.id for member in group.members]) == (False, ["a", "b", "c"])


def test_an_unknown_connection_has_no_group(database: Database) -> None:
    """An unknown connection is 404."""
    with pytest.raises(NotFoundError):
        group_of(database, "nobody")


def test_disagreeing_groups_are_counted(database: Database) -> None:
    """Each counts once, whatever the number of outdated members; single and deleted connections do not count."""
    row_factory.store(
        database,
        row_factory.connection("a", primary_duplicate_id="b"),
        row_factory.connection("b", primary_duplicate_id="c"),
        row_factory.connection("c", primary_duplicate_id="c"),
        row_factory.connection("d", primary_duplicate_id="b"),
        row_factory.connection("e", primary_duplicate_id="never seen"),
        row_factory.connection("f", primary_duplicate_id="b", status="DELETED"),
        row_factory.connection("lone"),
    )

    with database.read() as session:
        assert count_disagreeing_groups(session) == 2
