"""``python -m bench [NAME ...]``: measure the figures that are named, or all, and say which targets hold."""

import argparse
import sys

from bench.figures import (
    backfill,
    burst,
    feed,
    ingest,
    latency,
    primary_move,
    prune,
    push,
    race,
    random_histories,
    rebuild,
    slow_consumer,
    timeline,
    worker,
)
from bench.harness.stack import BenchError, Stack
from bench.report import machine
from tests.support.servers import Run

FIGURES = {
    "burst": burst.measure,
    "race": race.measure,
    "ingest": ingest.measure,
    "latency": latency.measure,
    "feed": feed.measure,
    "push": push.measure,
    "beside": slow_consumer.measure,
    "worker": worker.measure,
    "move": primary_move.measure,
    "backfill": backfill.measure,
    "histories": random_histories.measure,
    "rebuild": rebuild.measure,
    "timeline": timeline.measure,
    "prune": prune.measure,
}


def main() -> int:
    """Measure; return 0 where every target holds, 1 where one does not, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="see that it works; the figures mean nothing")
    asked = parser.parse_args()
    strange = [name for name in asked.names if name not in FIGURES]
    if strange:
        parser.error(f"there is no {', '.join(strange)}")
    run = Run.begin()
    figures = []
    try:
        stack = Stack(run, is_quick=asked.quick)
        for name in asked.names or FIGURES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures.append(FIGURES[name](stack))
            figures[-1].save()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        run.end()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for figure in figures:
        print("\n" + figure.text())
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
