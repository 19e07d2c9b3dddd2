"""The root command: exit codes, help, and lazy imports."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from meldwatch.cli.root import COMMANDS, cli
from tests.end_to_end.deployment import COMMAND, deployed

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("connections", "show", "nobody"), 2, "nobody"),
        (("webhooks", "list", "--since", "yesterday"), 2, "--since"),
        (("events", "list", "--type", "no.such"), 2, "--type"),
        (("events", "show", "999"), 2, "999"),
        (("trigger", "TEST", "--connection", "c", "--to", "http://127.0.0.1:1/"), 3, "Is the service running?"),
        (("no-such-command",), 2, "No such command"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_bad_usage_is_one_clear_line(
    sqlite_url: str, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """The exit code is that of the contract, the line names the mistake, and there is no traceback."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run(*arguments)

    assert (ended.returncode, message in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr


# Imports of the root command

SHOW_IMPORTS = """
import sys
before = set(sys.modules)
from meldwatch.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names, file=sys.stderr)
"""
HELP_IMPORTS = {"click", "meldwatch", "runtime"}
LIST_IMPORTS = {
    *HELP_IMPORTS,
    *("migrations", "schemas", "service"),
    *("annotated_types", "anyio", "dotenv", "pydantic", "pydantic_core", "sqlalchemy", "sqlmodel", "starlette"),
    *("typing_extensions", "typing_inspection"),
}
OPTIONAL_IMPORTS = {"greenlet"}
"""Imported by SQLAlchemy if it is installed."""


def make_environment(folder: Path) -> dict[str, str]:
    return {"MELDWATCH_DATABASE_URL": f"sqlite:///{folder / 'new.db'}", "PYTHONPATH": str(ROOT)}


def find_imports(folder: Path, *arguments: str) -> set[str]:
    """Return the top-level packages that a command imports, without those of the standard library."""
    command = [sys.executable, "-c", SHOW_IMPORTS, *arguments]
    ended = subprocess.run(
        command, env=make_environment(folder), cwd=folder, capture_output=True, text=True, check=True
    )
    names = ended.stderr.splitlines()[-1].split() if ended.stderr.strip() else []
    return {name for name in names if not name.startswith(("_", "cython"))} - OPTIONAL_IMPORTS


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(tmp_path: Path, option: str) -> None:
    """They load only Click and the table of commands, so they answer at once."""
    assert find_imports(tmp_path, option) <= HELP_IMPORTS


def test_a_list_imports_only_what_it_needs(tmp_path: Path) -> None:
    """``connections list --json`` loads neither Alembic nor the broker, the server, the HTTP client or cryptography."""
    subprocess.run([*COMMAND, "migrate"], env=make_environment(tmp_path), cwd=tmp_path, check=True)

    assert find_imports(tmp_path, "connections", "list", "--json") <= LIST_IMPORTS


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """``meldwatch events list | head`` prints no error."""
    with subprocess.Popen(
        [*COMMAND, "--help"], env=make_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        printed_to_terminal = command.stderr.read()

    assert printed_to_terminal == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_root_help_has_the_first_sentence_of_each_command(name: str) -> None:
    """The static table agrees with the commands, each of which is an attribute of its module."""
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert (command.name, (command.help or "").partition("\n\n")[0].replace("\n", " ")) == (name, COMMANDS[name].help)


def test_every_module_of_commands_is_in_the_table() -> None:
    """The table names every module of commands."""
    modules = {path.stem for path in (ROOT / "meldwatch/cli/commands").glob("*.py")} - {"__init__"}

    assert {entry.module for entry in COMMANDS.values()} == modules
