"""Structured logging: JSON lines or console output for our code and all libraries.

An event and its fields go through the standard library's logging. The line is made by ``runtime.log_format``, which is
imported with the first line: most commands log none.
"""

import logging
import sys
from functools import cached_property
from typing import Any, TextIO

_LIBRARY_LEVELS = {
    "alembic": logging.WARNING,
    "dramatiq": logging.WARNING,
    # It warns of a second worker on one broker; here there are two, each with its own queues.
    "dramatiq.broker": logging.ERROR,
    "httpcore2": logging.WARNING,
    "httpx2": logging.WARNING,
    "uvicorn": logging.WARNING,
    # It logs a traceback for every failed connection, and raises the error as well.
    "pika": logging.CRITICAL,
}


class EventLogger:
    """Logs events with fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - a field may be anything
        """Log a detail."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - a field may be anything
        """Log what happens as expected."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - a field may be anything
        """Log what an operator may have to look at."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - a field may be anything
        """Log a failure."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:  # noqa: ANN401 - a field may be anything
        """Log a failure with the traceback of the present exception."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def _log(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        self._logger.log(level, event, extra={"fields": fields}, exc_info=exc_info)


class _LazyFormatter(logging.Formatter):
    """Makes a line of a record."""

    def __init__(self, *, is_console: bool, use_colors: bool) -> None:
        super().__init__()
        self._is_console = is_console
        self._use_colors = use_colors

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return self._formatter.format(record)

    @cached_property
    def _formatter(self) -> logging.Formatter:
        from runtime.log_format import make_formatter  # noqa: PLC0415 - structlog is slow to import

        return make_formatter(is_console=self._is_console, use_colors=self._use_colors)


def configure(log_format: str, *, stream: TextIO = sys.stderr) -> None:
    """Send all logs through one formatter. A process calls this once, when it starts.

    Args:
        log_format: ``json``, ``console`` or ``auto`` (console on a terminal).
        stream: The stream that lines are written to.
    """
    is_console = log_format == "console" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LazyFormatter(is_console=is_console, use_colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name, level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module."""
    return EventLogger(name)
