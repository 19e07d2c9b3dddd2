"""``python -m bench [NAME ...]``: measure the named figures, or all, and report which targets are met."""

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
from bench.report import describe_machine
from tests.support.processes.servers import Run

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
    """Run; return exit code 0 if every target is met, 1 if one is missed, 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"figures to measure, by default all: {', '.join(FIGURES)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only check that everything works; the results are meaningless"
    )
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown figure: {', '.join(unknown)}")
    run = Run.begin()
    figures = []
    try:
        stack = Stack(run, is_quick=args.quick)
        for name in args.names or FIGURES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            figures.append(FIGURES[name](stack))
            figures[-1].save()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        run.end()
    print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    for figure in figures:
        print("\n" + figure.to_markdown())
    return 0 if all(figure.is_met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
