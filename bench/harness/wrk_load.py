"""Load generator wrk: sends webhooks signed beforehand; measures CPU time and memory of the server."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.harness import signed_webhooks
from bench.harness.stack import BenchError

SCRIPT = Path(__file__).with_name("wrk.lua")
MAX_RATE = 20_000
"""Requests a second that are signed beforehand. A faster server ends the run early; the rate is still correct."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """The result of one run of wrk, with CPU time and memory of the server process."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    not_200: int
    cpu_seconds_per_1000: float
    rss_mb: float

    @classmethod
    def median(cls, runs: Sequence["LoadRun"]) -> "LoadRun":
        """Return the medians of several runs, with the sums of requests and failures."""
        middle = {name: median(getattr(run, name) for run in runs) for name in cls.__slots__}
        return cls(
            **{**middle, "requests": sum(run.requests for run in runs), "not_200": sum(run.not_200 for run in runs)}
        )


def run_load(url: str, pid: int, *, connection_ids: Sequence[str], concurrency: int, seconds: int) -> LoadRun:
    """Send unique webhooks for some seconds over concurrent connections, one request at a time on each."""
    process = psutil.Process(pid)
    with tempfile.TemporaryDirectory(prefix="meldwatch-bench-") as folder:
        path = Path(folder, "requests")
        length = signed_webhooks.write_requests(path, url=url, connection_ids=connection_ids, count=MAX_RATE * seconds)
        before = process.cpu_times()
        result = _wrk(f"-c{concurrency}", f"-d{seconds}s", url, "--", str(path), str(length))
        after = process.cpu_times()
    requests = result["requests"]
    cpu = after.user + after.system - before.user - before.system
    return LoadRun(
        requests=requests,
        rate=requests / (result["microseconds"] / 1e6),
        p50_ms=result["p50"] / 1e3,
        p99_ms=result["p99"] / 1e3,
        not_200=result["refused"] + result["broken"],
        cpu_seconds_per_1000=cpu / requests * 1000,
        rss_mb=process.memory_info().rss / 2**20,
    )


def _wrk(*options: str) -> dict[str, int]:
    if shutil.which("wrk") is None:
        raise BenchError("wrk is missing (Debian: apt-get install wrk)")
    command = ["wrk", "-t1", "--timeout", "15s", "-s", str(SCRIPT), *options]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("RESULT ")]
    result: dict[str, int] = json.loads(line.removeprefix("RESULT "))
    assert result["requests"], answer.stdout
    return result
