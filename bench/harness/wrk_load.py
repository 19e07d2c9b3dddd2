"""Load: wrk, firing what was signed beforehand, at a process whose time and memory are watched."""

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
FASTEST = 20_000
"""Requests a second that are signed beforehand. Where more are answered, the run ends early; the rate is right then."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What one run of wrk came to, and what it cost the process that answered."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    not_200: int
    cpu_seconds_per_1000: float
    rss_mb: float

    @classmethod
    def median(cls, runs: Sequence["LoadRun"]) -> "LoadRun":
        """Return the medians of several runs, and all that went wrong in any of them."""
        middle = {name: median(getattr(run, name) for run in runs) for name in cls.__slots__}
        return cls(
            **{**middle, "requests": sum(run.requests for run in runs), "not_200": sum(run.not_200 for run in runs)}
        )


def fire(url: str, pid: int, *, connection_ids: Sequence[str], concurrency: int, seconds: int) -> LoadRun:
    """Fire unique webhooks for some seconds from so many connections, each with one request at a time."""
    process = psutil.Process(pid)
    with tempfile.TemporaryDirectory(prefix="meldwatch-bench-") as folder:
        path = Path(folder, "requests")
        length = signed_webhooks.write(path, url=url, connection_ids=connection_ids, count=FASTEST * seconds)
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
