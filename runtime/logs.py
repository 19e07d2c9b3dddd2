"""Structured logging: JSON lines or console output for our code and all libraries, with redaction of credentials."""

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.security.redaction import is_secret_name, redact

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


def configure(log_format: str, *, stream: TextIO = sys.stderr) -> None:
    """Send all logs through one formatter. A process calls this once, when it starts.

    Args:
        log_format: ``json``, ``console`` or ``auto`` (console on a terminal).
        stream: The stream that lines are written to.
    """
    is_console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # Local variables contain headers and bodies: tracebacks never show them.
    traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.ExceptionRenderer(traceback), structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _drop_colour, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name, level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _redact(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    for key, value in entry.items():
        if is_secret_name(key):
            entry[key] = "***"
        elif isinstance(value, dict | list):
            entry[key] = redact(value)
    return entry


def _drop_colour(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    entry.pop("color_message", None)
    return entry
