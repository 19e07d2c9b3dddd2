"""Generate the parts of the documentation that follow from the code: ``python -m docs.generate``.

``tests/test_docs.py`` fails if one of the files is out of date.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from docs import api_reference
from meldwatch.cli.root import cli
from meldwatch.process.factories import make_replay_manager, make_subscription_manager
from runtime.clock import utcnow
from runtime.database import Database
from runtime.metrics import Metrics
from runtime.retention_settings import RetentionSettings
from runtime.settings import PREFIX, Settings
from schemas.connection_changes import EventType
from schemas.events import DATA_VERSION, EVENT_MODELS
from service.app import create_app
from service.feed.notifier import FeedNotifier
from service.resources import event_schemas
from workers.history.projection import project_mirrors

FOLDER = Path(__file__).parent
COLUMNS = 80

SETTINGS = """\
# Settings

Generated from `runtime/settings.py` by `python -m docs.generate`; do not edit.

A process reads its settings once, when it starts: from the environment, and from the file `.env` in the working
directory. If both set a value, the environment wins. An empty value counts as not set. `.env.example` contains the
settings to start with.

- Every setting also has a form that ends in `_FILE` and names a file that contains the value:
  `MELDWATCH_WEBHOOK_SECRETS_FILE=/run/secrets/meld-webhook`. White space around the content is removed. Setting both
  forms is an error.
- Lists are comma separated, or a JSON list if a value contains a comma: `["https://a.example/x,y"]`.
- If a setting is invalid, or a process lacks one that it needs, the process ends at the start with exit code 2 and one
  line that names the setting, never its value. An unknown `MELDWATCH_` variable is logged as a warning.
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
| `subscriptions add`, `subscriptions rotate` | `ENCRYPTION_KEYS`, as `web` and `worker`; beside `up`, its key file |
| `keys rotate`, `webhooks show --body` | the same |
| `simulate`, `trigger`, `webhooks reverify` | `WEBHOOK_URLS`, `WEBHOOK_SECRETS` |

| setting | default | secret | meaning |
|---|---|---|---|
"""

COMMANDS = """\
# Command line

Generated from the commands' own help by `python -m docs.generate`; do not edit.

Exit codes:

- 0: done.
- 1: done, and something is wrong: a check failed, a webhook was not accepted, a reconcile found drift, a rebuild found
  a difference, a dry run found a change, a reverify found a webhook that looks genuine but does not verify, a replay
  was stopped, or a component of a process died.
- 2: bad usage or settings, or another reconcile is running.
- 3: a dependency is out of reach.

Lists are printed as a table, or as JSON Lines with `--json`. Every command reads the [settings](settings.md).
"""


def settings() -> str:
    """Return ``settings.md``."""
    # Pydantic lists inherited fields first; the retention settings belong at the end.
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
    """Yield the full name and the help of a command, then those of its subcommands."""
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
        for name in sorted(command.list_commands(context)):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _helps(inner, name, context)


def make_app() -> Starlette:
    """Return the application as a web process serves it, on a database that is never opened."""

    async def webhook_endpoint(_request: Request) -> Response:
        raise NotImplementedError

    database = Database("postgresql://nobody@127.0.0.1:1/unused")
    try:
        return create_app(
            settings=Settings(),
            database=database,
            clock=utcnow,
            webhook_endpoint=webhook_endpoint,
            notify_workers=lambda _ids: None,
            ping_broker=lambda: None,
            feed=FeedNotifier(database=database),
            subscription_manager=make_subscription_manager(Settings(), database),
            replay_manager=make_replay_manager(database),
            metrics=Metrics(),
            views=project_mirrors,
        )
    finally:
        database.close()


def api() -> str:
    """Return ``api.md``."""
    return api_reference.render(json.loads(asyncio.run(_get(make_app(), "/openapi.json"))))


async def _get(app: Starlette, path: str) -> bytes:
    """Return the body of the application's answer to a GET request."""
    body = bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        body.extend(message.get("body", b""))

    await app({"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}, receive, send)
    return bytes(body)


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _event_schema(event_type: EventType) -> str:
    return _json(event_schemas.event_json_schema(event_type))


DOCUMENTS: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "cli.md": commands,
    "api.md": api,
    "asyncapi.json": lambda: _json(event_schemas.asyncapi_document()),
    **{f"schemas/{name}.{DATA_VERSION}.json": partial(_event_schema, name) for name in EVENT_MODELS},
}
"""Generated files: a function that returns the content, by name."""


def main() -> None:
    """Write all generated documents."""
    for name, text in DOCUMENTS.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
