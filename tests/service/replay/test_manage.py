import pytest

from runtime.database import Database
from schemas.replays import NewReplay
from service.errors import ConflictError, NotFoundError
from tests.service.replay.replay_helpers import WHO, acts, replays_on, runner_on, started
from tests.support.scripted_consumer import emit, subscribe


def test_resume_continues_a_stopped_replay(database: Database) -> None:
    """A stopped replay is to be run again, at another rate if one is given; the audit log names both operators."""
    first, second = started(database), started(database, rate=3)
    replays = replays_on(database)
    for each in (first, second):
        replays.stop(each.id, who=WHO)

    resumed = [replays.resume(each.id, who="bob", rate=rate) for each, rate in ((first, 7.0), (second, None))]

    assert [(each.state, each.rate, each.who) for each in resumed] == [("waiting", 7.0, WHO), ("waiting", 3.0, WHO)]
    assert acts(database)[-2:] == [("replay.resumed", "bob", first.id), ("replay.resumed", "bob", second.id)]


def test_resume_joins_a_replay_that_is_not_stopped(database: Database) -> None:
    """Nothing changes and nothing is audited, unless a new rate is given."""
    replay = started(database, rate=3)
    replays = replays_on(database)

    joined = replays.resume(replay.id, who=WHO)
    audited = len(acts(database))
    changed = replays.resume(replay.id, who=WHO, rate=5)

    assert (joined.rate, audited) == (3, 1)
    assert (changed.rate, acts(database)[1:]) == (5, [("replay.resumed", WHO, replay.id)])


def test_a_replay_that_cannot_be_resumed_is_refused(database: Database) -> None:
    """One of another kind, one that has ended, and an unknown one: each error says what to do."""
    subscribe(database)
    emit(database, "c1")
    replays = replays_on(database)
    over, events = started(database), started(database, "events", subscription="s1")
    runner_on(database).run(over.id)

    with pytest.raises(ConflictError, match="replay events --resume"):
        replays.resume(events.id, who=WHO, kind="webhooks")
    with pytest.raises(ConflictError, match="has ended"):
        replays.resume(over.id, who=WHO)
    with pytest.raises(NotFoundError):
        replays.resume("none", who=WHO)

    assert "replay.resumed" not in [act for act, _who, _subject in acts(database)]


def test_the_state_follows_from_lease_and_timestamps(database: Database) -> None:
    """``running`` while a process runs it; ``failed`` if it could not be finished."""
    subscribe(database)
    emit(database, "c1")
    replay = started(database, "events", subscription="s1")
    states = [replay.state]
    with database.write() as session:
        for table in ("delivery_queue", "delivery", "subscription"):
            session.connection().exec_driver_sql(f"DELETE FROM {table}")

    def look(_row: object, _waits: str | None) -> None:
        states.append(replays_on(database).get(replay.id).state)

    def wait(_seconds: float) -> bool:
        states.append(replays_on(database).get(replay.id).state)
        return False

    runner_on(database, wait=wait).run(replay.id, look)

    assert states == ["waiting", "running", "failed"]
    assert replays_on(database).get(replay.id).error == "The subscription was removed."


def test_the_filter_is_kept_as_it_was_given(database: Database) -> None:
    """Times are in UTC; a filter that was not given is absent."""
    wish = NewReplay.model_validate(
        {"kind": "webhooks", "since": "2026-01-02T03:04:05+01:00", "type": "x", "state": "failed"}
    )

    replay = replays_on(database).create(wish, who=WHO)

    assert replay.filter == {"since": "2026-01-02T02:04:05Z", "type": "x", "state": "failed"}
    assert replay.rate == 20
