"""Write the parts of the documentation that the program knows by itself: ``python -m docs.generate``.

``tests/test_docs.py`` fails where one of the files is not what this would write.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from meldwatch.cli.root import cli
from runtime.retention_settings import RetentionSettings
from runtime.settings import PREFIX, Settings
from schemas.events import EVENTS, VERSION
from service.resources import event_schemas

FOLDER = Path(__file__).parent
COLUMNS = 80

SETTINGS = """\
# Settings

Generated from `runtime/settings.py` by `python -m docs.generate`; do not edit.

Settings are read once, when a process starts: from the environment, and from a file `.env` in the working directory.
Where both name a setting, the environment wins. An empty value is no value. `.env.example` has those to begin with.

- Every setting also has a form with `_FILE` at its end, which names a file that holds the value:
  `MELDWATCH_WEBHOOK_SECRETS_FILE=/run/secrets/meld-webhook`. White space around the content is dropped. To set both
  forms is an error.
- Lists are comma separated, or a JSON list where a value has a comma in it: `["https://a.example/x,y"]`.
- A setting that is unusable, or that a process needs and does not have, ends it at the start with exit code 2 and a
  line that names the setting, never its value. A `MELDWATCH_` variable that is no setting is logged as a warning.
- *Secret* means that the value is never printed or logged.

| process | needs |
|---|---|
| `up` | `WEBHOOK_URLS`, `WEBHOOK_SECRETS`, `MELD_API_KEY` (or `MELD_AUTHORIZATION`) |
| `up --demo` | nothing |
| `web` | `WEBHOOK_URLS`, `WEBHOOK_SECRETS`, and `DATABASE_URL` and `BROKER_URL` of servers |
| `worker` | `MELD_API_KEY` (or `MELD_AUTHORIZATION`), and `DATABASE_URL` and `BROKER_URL` of servers |
| `clock` | `MELD_API_KEY` (or `MELD_AUTHORIZATION`), and `DATABASE_URL` and `BROKER_URL` of servers |
| `reconcile` | `MELD_API_KEY` (or `MELD_AUTHORIZATION`) |
| `replay webhooks --dry-run` | `MELD_API_KEY` (or `MELD_AUTHORIZATION`) |
| `subscriptions add`, `subscriptions rotate` | `ENCRYPTION_KEYS`, as `web` and `worker`; beside `up`, what it keeps |
| `keys rotate`, `webhooks show --body` | the same |
| `simulate`, `trigger`, `webhooks reverify` | `WEBHOOK_URLS`, `WEBHOOK_SECRETS` |

| setting | default | secret | meaning |
|---|---|---|---|
"""

COMMANDS = """\
# Command line

Generated from the commands' own help by `python -m docs.generate`; do not edit.

Exit codes: 0 done; 1 done, and something is wrong (a check failed, a webhook was not taken, a reconcile found drift, a
rebuild a difference, a dry run something that would change, a reverify a webhook that looks like Meld's and does not
pass, a replay was stopped, a part of a process died); 2 bad usage or settings, or another reconcile is running; 3 a
dependency is out of reach. What is listed is a table, or JSON Lines with `--json`.
Every command reads the [settings](settings.md).
"""


def settings() -> str:
    """Return ``settings.md``."""
    # Those that are a part of their own come last, not first as what is inherited does.
    fields = sorted(Settings.model_fields.items(), key=lambda field: field[0] in RetentionSettings.model_fields)
    return SETTINGS + "".join(_setting(name, field) for name, field in fields)


def _setting(name: str, field: FieldInfo) -> str:
    secret = "yes" if "Secret" in str(field.annotation) else "no"
    return f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {secret} | {field.description} |\n"


def _default(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "none" if value is None or value == () else f"`{value}`"


def commands() -> str:
    """Return ``cli.md``."""
    helps = _helps(cli, "meldwatch", parent=None)
    return COMMANDS + "".join(f"\n## `{name}`\n\n```text\n{text}\n```\n" for name, text in helps)


def _helps(command: click.Command, word: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    """Yield the full name and the help of a command, then those of its commands."""
    context = click.Context(
        command,
        info_name=word,
        parent=parent,
        terminal_width=COLUMNS,
        max_content_width=COLUMNS,
        **command.context_settings,
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from _helps(inner, name, context)


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


DOCUMENTS: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "cli.md": commands,
    "asyncapi.json": lambda: _json(event_schemas.asyncapi()),
    **{f"schemas/{type_}.{VERSION}.json": lambda type_=type_: _json(event_schemas.schema(type_)) for type_ in EVENTS},  # type: ignore[misc]
}
"""What is generated, by file."""


def main() -> None:
    """Write all generated documents."""
    for name, text in DOCUMENTS.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
