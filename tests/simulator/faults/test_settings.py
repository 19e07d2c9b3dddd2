from random import Random

import pytest

from simulator.errors import MalformedError
from simulator.faults.probability import Chance
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import NO_FAULTS, Faults


def test_a_line_of_faults_is_read() -> None:
    """Probabilities, chances with seconds, switches and words can stand on one line."""
    faults = Faults.parse("lost=0.1, slow=0.2:5,credentials=off,retry_time=old,latency_ms=200")

    assert faults == Faults(
        lost=0.1, slow=Chance(probability=0.2, seconds=5), credentials=False, retry_time="old", latency_ms=200
    )


def test_an_empty_line_is_no_faults() -> None:
    """Nothing goes wrong unless it is asked for."""
    assert Faults.parse("") == NO_FAULTS


def test_what_is_written_can_be_read_again() -> None:
    """Faults survive the way through JSON."""
    faults = Faults.parse("stale=0.5:3,doubled=1")

    assert Faults.read(faults.model_dump()) == faults


@pytest.mark.parametrize("chance", ["0.3:5", [0.3, 5], {"probability": 0.3, "seconds": 5}])
def test_a_chance_has_several_forms(chance: object) -> None:
    """A chance is text, a pair, or an object."""
    assert Faults.read({"slow": chance}).slow == Chance(probability=0.3, seconds=5)


def test_a_chance_may_be_a_bare_number() -> None:
    """Without seconds a chance is its probability."""
    assert Faults.parse("throttled=0.25") == Faults.read({"throttled": 0.25})


@pytest.mark.parametrize("line", ["lost=2", "slow=often", "nonsense=1", "lost", "slow=0.1:-2", "retry_time=never"])
def test_a_bad_line_is_malformed(line: str) -> None:
    """The message names the fault that is wrong."""
    with pytest.raises(MalformedError, match=line.split("=", maxsplit=1)[0]):
        Faults.parse(line)


def test_without_faults_a_read_goes_well() -> None:
    """No faults draw a plain step, and use up no randomness."""
    random = Random(1)
    before = random.getstate()

    assert (NO_FAULTS.draw(random), random.getstate()) == (ScriptedRead(), before)


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
def test_a_certain_fault_strikes(line: str, expected: ScriptedRead) -> None:
    """Each fault of reads becomes its step."""
    assert Faults.parse(line).draw(Random(1)) == expected


def test_the_same_seed_draws_the_same_faults() -> None:
    """Chance is seeded."""
    faults = Faults.parse("slow=0.5:1,stale=0.5:9,failing=0.3,shifted=0.5")
    first, second = Random(3), Random(3)

    assert [faults.draw(first) for _ in range(50)] == [faults.draw(second) for _ in range(50)]
