from random import Random

import pytest

from simulator.errors import MalformedError
from simulator.faults.probability import TimedProbability
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import NO_FAULTS, Faults


def test_a_line_of_faults_is_parsed() -> None:
    """Probabilities, timed probabilities, switches and words can be combined in one line."""
    faults = Faults.parse("lost=0.1, slow=0.2:5,credentials=off,retry_time=old,latency_ms=200")

    assert faults == Faults(
        lost=0.1, slow=TimedProbability(probability=0.2, seconds=5), credentials=False, retry_time="old", latency_ms=200
    )


def test_an_empty_line_is_no_faults() -> None:
    """All faults are off by default."""
    assert Faults.parse("") == NO_FAULTS


def test_faults_survive_a_round_trip_through_json() -> None:
    """The JSON of faults parses to the same faults."""
    faults = Faults.parse("stale=0.5:3,doubled=1")

    assert Faults.from_json(faults.model_dump()) == faults


@pytest.mark.parametrize("value", ["0.3:5", [0.3, 5], {"probability": 0.3, "seconds": 5}])
def test_a_timed_probability_has_several_forms(value: object) -> None:
    """A timed probability is text, a pair, or an object."""
    assert Faults.from_json({"slow": value}).slow == TimedProbability(probability=0.3, seconds=5)


def test_a_timed_probability_may_be_a_bare_number() -> None:
    """A bare number is a probability without seconds."""
    assert Faults.parse("throttled=0.25") == Faults.from_json({"throttled": 0.25})


@pytest.mark.parametrize("line", ["lost=2", "slow=often", "nonsense=1", "lost", "slow=0.1:-2", "retry_time=never"])
def test_a_bad_line_is_malformed(line: str) -> None:
    """The message names the invalid fault."""
    with pytest.raises(MalformedError, match=line.split("=", maxsplit=1)[0]):
        Faults.parse(line)


def test_without_faults_a_read_has_no_faults() -> None:
    """Without faults, the drawn read has none, and no random number is used up."""
    random = Random(1)
    before = random.getstate()

    assert (NO_FAULTS.draw_read(random), random.getstate()) == (ScriptedRead(), before)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("slow=1:5", ScriptedRead(delay=5)),
        ("throttled=1", ScriptedRead(status=429)),
        ("throttled=1:2", ScriptedRead(status=429, headers={"Retry-After": "2"})),
        ("failing=1", ScriptedRead(status=500)),
        ("refused=1", ScriptedRead(status=401)),
        ("hanging=1", ScriptedRead(hang=True)),
        ("cut=1", ScriptedRead(cut=True)),
    ],
)
def test_a_fault_of_probability_one_always_occurs(line: str, expected: ScriptedRead) -> None:
    """Each fault of reads sets its field of the read."""
    assert Faults.parse(line).draw_read(Random(1)) == expected


def test_the_same_seed_draws_the_same_faults() -> None:
    """The random source is seeded."""
    faults = Faults.parse("slow=0.5:1,stale=0.5:9,failing=0.3,shifted=0.5")
    first, second = Random(3), Random(3)

    assert [faults.draw_read(first) for _ in range(50)] == [faults.draw_read(second) for _ in range(50)]
