import pytest

from runtime.database import Database
from schemas.replays import NewReplay
from service.errors import ConflictError, UnknownError
from tests.service.replay.replay_helpers import WHO, acts, player_on, replays_on, row_of, started
from tests.support.scripted_consumer import emit, subscribe


def test_an_operators_command_takes_up_what_it_left(database: Database) -> None:
    """One that was stopped, or whose command was killed, is gone on with where it was, at another rate if need be."""
    stopped, killed = started(database, is_attended=True), started(database, is_attended=True, rate=3)
    replays = replays_on(database)
    replays.stop(stopped.id, who=WHO)

    told = [
        replays.attend(each.id, "webhooks", who="bob", rate=rate) for each, rate in ((stopped, 7.0), (killed, None))
    ]

    assert [(each.state, each.attended, each.rate, each.who) for each in told] == [
        ("waiting", True, 7.0, WHO),
        ("waiting", True, 3.0, WHO),
    ]
    assert acts(database)[-2:] == [("replay.resumed", "bob", stopped.id), ("replay.resumed", "bob", killed.id)]


def test_a_command_takes_nothing_from_the_service(database: Database) -> None:
    """What the service runs has to be stopped first; what is of another kind, or over, or unknown, is told so."""
    subscribe(database)
    emit(database, "c1")
    replays = replays_on(database)
    served, over = started(database), started(database)
    events = started(database, "events", subscription="s1", is_attended=True)
    player_on(database).play(over.id)

    with pytest.raises(ConflictError, match="Stop it first"):
        replays.attend(served.id, "webhooks", who=WHO)
    with pytest.raises(ConflictError, match="replay events --resume"):
        replays.attend(events.id, "webhooks", who=WHO)
    with pytest.raises(ConflictError, match="has ended"):
        replays.attend(over.id, "webhooks", who=WHO)
    with pytest.raises(UnknownError):
        replays.attend("none", "webhooks", who=WHO)
    replays.stop(served.id, who=WHO)
    replays.attend(served.id, "webhooks", who=WHO)

    assert row_of(database, served.id).is_attended
    assert [act for act, _who, _subject in acts(database)].count("replay.resumed") == 1


def test_the_service_takes_over_what_was_attended(database: Database) -> None:
    """Resumed over the API, a replay of a command that is gone is run by the service."""
    replay = started(database, is_attended=True)

    told = replays_on(database).resume(replay.id, who=WHO)

    assert (told.attended, told.state) == (False, "waiting")
    assert player_on(database).due("webhooks") == replay.id


def test_the_state_is_what_is_the_case(database: Database) -> None:
    """Running while somebody is at it; failed where it could not be finished."""
    subscribe(database)
    emit(database, "c1")
    replay = started(database, "events", subscription="s1")
    states = [replay.state]
    with database.write() as session:
        for table in ("lane", "delivery", "subscription"):
            session.connection().exec_driver_sql(f"DELETE FROM {table}")

    def look(_row: object, _waits: str | None) -> None:
        states.append(replays_on(database).get(replay.id).state)

    def wait(_seconds: float) -> bool:
        states.append(replays_on(database).get(replay.id).state)
        return False

    player_on(database, wait=wait).play(replay.id, look)

    assert states == ["waiting", "running", "failed"]
    assert replays_on(database).get(replay.id).error == "The subscription was removed."


def test_the_filter_is_kept_as_it_was_given(database: Database) -> None:
    """Times in UTC; what was not given is not there."""
    wish = NewReplay.model_validate(
        {"kind": "webhooks", "since": "2026-01-02T03:04:05+01:00", "type": "x", "state": "failed"}
    )

    replay = replays_on(database).start(wish, who=WHO)

    assert replay.filter == {"since": "2026-01-02T02:04:05Z", "type": "x", "state": "failed"}
    assert replay.rate == 20
