"""Report of a figure: results and targets, as a Markdown table and as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Check:
    """A target and the measured value."""

    what: str
    target: str
    measured: str
    is_met: bool


@dataclass(slots=True)
class Figure:
    """The result of one figure: a table, the targets, notes and the raw values."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)

    def check(self, what: str, *, target: str, measured: str, is_met: bool) -> None:
        """Compare a measured value with its target."""
        self.checks.append(Check(what, target, measured, is_met))

    @property
    def is_met(self) -> bool:
        """Whether every target is met."""
        return all(check.is_met for check in self.checks)

    def to_markdown(self) -> str:
        """Return the result as Markdown."""
        comparison = [["target", "wanted", "measured", "met"]]
        comparison += [[c.what, c.target, c.measured, "yes" if c.is_met else "NO"] for c in self.checks]
        parts = [f"## {self.name}: {self.title}", _table([list(self.columns), *self.rows])]
        if self.checks:
            parts.append(_table(comparison))
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts)

    def save(self) -> Path:
        """Write the result and a description of the machine as JSON, to a directory that git ignores."""
        RESULTS.mkdir(exist_ok=True)
        now = datetime.now(UTC)
        path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{self.name}.json"
        path.write_text(
            json.dumps({"at": now.isoformat(), "machine": describe_machine(), **asdict(self)}, indent=1) + "\n"
        )
        return path


def describe_machine() -> dict[str, object]:
    """Return a description of the machine, and the program's version."""
    models = {line.partition(":")[2].strip() for line in _lines(CPU_INFO) if line.startswith("model name")}
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {
        "cpus": os.cpu_count(),
        "cpu": ", ".join(sorted(models)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "revision": revision.stdout.strip(),
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first row is the header."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
