"""The command ``reconcile``, beside a running service."""

import json

from tests.end_to_end.deployment import Deployment
from tests.support.polling import eventually


def test_a_reconcile_fills_the_mirror_and_then_finds_no_drift(served: Deployment) -> None:
    """The first run imports all unseen connections and exits with 1 for the drift; the second exits with 0."""
    unseen_ids = [served.meld.world.add().id for _ in range(25)]

    first = served.run("reconcile", "--json")
    second = served.run("reconcile", "--json")

    drifts = [
        {kind: json.loads(ended.stdout)[kind] for kind in ("unseen", "changed", "missing")} for ended in (first, second)
    ]
    assert (first.returncode, second.returncode) == (1, 0)
    assert drifts == [{"unseen": 25, "changed": 0, "missing": 0}, {"unseen": 0, "changed": 0, "missing": 0}]
    assert set(unseen_ids) <= served.mirror().keys()
    assert served.mirror_matches_meld()


def test_a_reconcile_repairs_a_missed_change(served: Deployment) -> None:
    """A change that Meld sent no webhook for reaches the mirror and the feed."""
    id_ = served.meld.world.add().id
    filled = served.run("reconcile")
    served.meld.world.break_connection(id_)

    ended = served.run("reconcile")

    assert (filled.returncode, "unseen" in filled.stdout) == (1, True)

    assert (ended.returncode, "changed" in ended.stdout) == (1, True)
    eventually(served.mirror_matches_meld, message="the true mirror")
    assert served.events()[-1]["data"]["cause"]["trigger"] == "reconcile"
