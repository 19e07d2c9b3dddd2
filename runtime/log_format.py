"""Format of log lines, by structlog: JSON or console, with context values and redaction of credentials."""

import logging

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.security.redaction import is_secret_name, redact


def make_formatter(*, is_console: bool, use_colors: bool) -> logging.Formatter:
    """Return the formatter of all log records, ours and those of libraries."""
    # Local variables contain headers and bodies: tracebacks never show them.
    traceback = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=use_colors, exception_formatter=structlog.dev.plain_traceback)]
        if is_console
        else [structlog.processors.ExceptionRenderer(traceback), structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.ExtraAdder(),
            _unpack_fields,
            _drop_colour,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )


def _unpack_fields(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    entry.update(entry.pop("fields", {}))
    return entry


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
