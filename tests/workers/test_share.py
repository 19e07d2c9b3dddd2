from hypothesis import given
from hypothesis import strategies as st

from workers.share import Shares

moves = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "leave", "fail", "take"])), max_size=60)


@given(st.integers(1, 9), moves)
def test_nobody_gets_more_than_a_share(threads: int, steps: list[tuple[str, str]]) -> None:
    """Half for one that answers; one thread for one that fails, and half for all of those: never more is let in."""
    shares = Shares(threads)
    working = dict.fromkeys("abc", 0)
    failing: set[str] = set()
    half = max(1, threads // 2)
    for name, step in steps:
        if step == "enter":
            of_failing = sum(working[each] for each in failing)
            may = working[name] < half if name not in failing else working[name] < 1 and of_failing < half
            assert shares.enter(name) == may
            working[name] += may
        elif step == "leave" and working[name]:
            shares.leave(name)
            working[name] -= 1
        elif step in {"fail", "take"} and working[name]:
            (failing.add if step == "fail" else failing.discard)(name)
            assert shares.note(name, is_taken=step == "take") == (step == "fail" and working[name] > 1)


def test_who_is_turned_away_is_heard() -> None:
    """Who works looks once more for each time that somebody was turned away, and then leaves."""
    shares = Shares(1)
    entered = [shares.enter("a"), shares.enter("a"), shares.enter("a")]

    assert entered == [True, False, False]
    assert [shares.stays("a"), shares.stays("a")] == [True, False]
    assert shares.enter("a")
