import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from runtime import logs


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the process's logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    levels = {name: logging.getLogger(name).level for name in logs._LIBRARY_LEVELS}
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def stream() -> io.StringIO:
    """Where the lines go."""
    made = io.StringIO()
    logs.configure("json", stream=made)
    return made


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line(stream: io.StringIO) -> None:
    """An event and its values are one JSON object, with time, level and logger."""
    logs.get_logger("service.ingest.inbox").info("stored", count=3, text="two\nlines")

    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "stored",
        "level": "info",
        "logger": "service.ingest.inbox",
        "count": 3,
        "text": "two\nlines",
    }


def test_library_logs_have_the_same_format(stream: io.StringIO) -> None:
    """A log record of a library becomes a line of the same form, with its extra values."""
    logging.getLogger("some.library").warning("%s is odd", "this", extra={"where": "here", "color_message": "no"})

    (line,) = lines(stream)
    line.pop("timestamp")
    assert line == {"event": "this is odd", "level": "warning", "logger": "some.library", "where": "here"}


@pytest.mark.parametrize("name", ["authorization", "api_key", "access_token", "webhook_secret", "meld_signature"])
def test_secrets_are_not_logged(stream: io.StringIO, name: str) -> None:
    """A value whose name marks it as a credential is hidden, whichever logger is used."""
    logs.get_logger("ours").info("ours", **{name: "hidden"})
    logging.getLogger("theirs").warning("theirs", extra={name: "hidden"})

    assert "hidden" not in stream.getvalue()
    assert [line[name] for line in lines(stream)] == ["***", "***"]


def test_secrets_inside_values_are_not_logged(stream: io.StringIO) -> None:
    """A credential inside an object or a list is removed."""
    logs.get_logger("ours").info(
        "asked", headers={"Authorization": "hidden", "a": [{"accessToken": "hidden"}]}, ids=("c1",)
    )

    (line,) = lines(stream)
    assert "hidden" not in stream.getvalue()
    assert (line["headers"], line["ids"]) == ({"a": [{}]}, ["c1"])


def test_values_bound_to_the_context_are_in_every_line(stream: io.StringIO) -> None:
    """Values bound to the context are in each line, without secrets."""
    with structlog.contextvars.bound_contextvars(connection_id="c1", token="hidden"):
        logs.get_logger("ours").info("read")

    (line,) = lines(stream)
    assert (line["connection_id"], line["token"]) == ("c1", "***")


def test_tracebacks_show_no_values(stream: io.StringIO) -> None:
    """An exception is logged with its traceback, and without the values of variables."""
    hidden_value = "hidden" + "-value"
    try:
        int("x" * len(hidden_value))
    except ValueError:
        logs.get_logger("ours").exception("failed")

    (line,) = lines(stream)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "hidden-value" not in stream.getvalue()


@pytest.mark.parametrize("name", ["uvicorn.asgi", "dramatiq.worker", "httpcore2.connection", "alembic.runtime"])
def test_verbose_libraries_log_warnings_only(stream: io.StringIO, name: str) -> None:
    """Libraries that log each step are limited to warnings."""
    logging.getLogger(name).info("GET /webhooks/meld")
    logging.getLogger(name).error("wrong")

    assert [line["event"] for line in lines(stream)] == ["wrong"]


def test_debug_lines_are_not_logged(stream: io.StringIO) -> None:
    """Debug lines are dropped."""
    logs.get_logger("ours").debug("detail")

    assert stream.getvalue() == ""


def test_a_terminal_gets_console_output() -> None:
    """On a terminal, lines are readable for people, tracebacks included."""
    terminal = Terminal()
    logs.configure("auto", stream=terminal)

    try:
        int("wrong")
    except ValueError:
        logs.get_logger("ours").exception("failed", token="hidden")

    shown = terminal.getvalue()
    assert "failed" in shown
    assert "ValueError: invalid literal" in shown
    assert "hidden" not in shown
    assert not shown.startswith("{")


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", True), ("json", True), ("console", False)])
def test_a_pipe_gets_the_configured_format(log_format: str, *, is_json: bool) -> None:
    """Without a terminal ``auto`` means JSON; an explicit format is respected."""
    stream = io.StringIO()
    logs.configure(log_format, stream=stream)

    logs.get_logger("ours").info("said")

    assert stream.getvalue().startswith("{") is is_json


def test_json_is_respected_on_a_terminal() -> None:
    """``json`` means JSON, also on a terminal."""
    terminal = Terminal()
    logs.configure("json", stream=terminal)

    logs.get_logger("ours").info("said")

    assert json.loads(terminal.getvalue())["event"] == "said"


def test_a_second_configuration_replaces_the_first(stream: io.StringIO) -> None:
    """No line is written twice."""
    second = io.StringIO()
    logs.configure("json", stream=second)

    logging.getLogger("some.library").warning("once")

    assert (stream.getvalue(), len(lines(second))) == ("", 1)
