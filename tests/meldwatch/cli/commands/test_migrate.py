"""The command ``migrate``."""

from pathlib import Path

from tests.end_to_end.deployment import deployed


def test_a_database_without_tables_is_named(tmp_path: Path) -> None:
    """A command that finds no tables, or no file, says which command makes them."""
    with deployed(tmp_path, f"sqlite:///{tmp_path / 'new.db'}", "memory://") as deployment:
        missing = deployment.run("connections", "list")
        migrated = deployment.run("migrate")
        listed = deployment.run("connections", "list", "--json")

    assert (missing.returncode, "meldwatch up" in missing.stderr) == (2, True)
    assert migrated.returncode == 0
    assert (listed.returncode, listed.stdout) == (0, "")
