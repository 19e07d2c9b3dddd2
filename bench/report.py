"""Report: what was measured and whether it is enough, as a table for people and as JSON for machines."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Check:
    """A target, and what was measured of it."""

    what: str
    target: str
    measured: str
    holds: bool


@dataclass(slots=True)
class Figure:
    """What one measurement came to: a table, the targets, and what must be known to read them."""

    name: str
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, object] = field(default_factory=dict)

    def check(self, what: str, *, target: str, measured: str, holds: bool) -> None:
        """Hold what was measured against a target."""
        self.checks.append(Check(what, target, measured, holds))

    @property
    def holds(self) -> bool:
        """Whether every target is met."""
        return all(check.holds for check in self.checks)

    def text(self) -> str:
        """Return it for people, in Markdown."""
        verdicts = [["target", "wanted", "measured", "holds"]]
        verdicts += [[c.what, c.target, c.measured, "yes" if c.holds else "NO"] for c in self.checks]
        parts = [f"## {self.name}: {self.title}", _table([list(self.columns), *self.rows])]
        if self.checks:
            parts.append(_table(verdicts))
        parts += [f"- {note}" for note in self.notes]
        return "\n\n".join(parts)

    def save(self) -> Path:
        """Write it, with the machine it was measured on, where git does not look."""
        RESULTS.mkdir(exist_ok=True)
        now = datetime.now(UTC)
        path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}-{self.name}.json"
        path.write_text(json.dumps({"at": now.isoformat(), "machine": machine(), **asdict(self)}, indent=1) + "\n")
        return path


def machine() -> dict[str, object]:
    """Return what is to be known of the machine and the program's version."""
    models = {line.partition(":")[2].strip() for line in _lines(FACTS) if line.startswith("model name")}
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
    """Return rows as a Markdown table; the first is its head."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
