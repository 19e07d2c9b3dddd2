"""The command ``migrate``."""

from pathlib import Path

from tests.end_to_end.deployment import deployed


def test_migrate_creates_the_tables(tmp_path: Path) -> None:
    """Without tables or without a file, other commands name the command that creates them."""
    with deployed(tmp_path, f"sqlite:///{tmp_path / 'new.db'}", "memory://") as deployment:
        missing = deployment.run("connections", "list")
        migrated = deployment.run("migrate")
        listed = deployment.run("connections", "list", "--json")

    assert (missing.returncode, "meldwatch up" in missing.stderr) == (2, True)
    assert migrated.returncode == 0
    assert (listed.returncode, listed.stdout) == (0, "")
