"""Logging of a server: structlog over the standard library, as text for people or JSON lines for
machines.

Only `ironflow serve` and the tools call `configure_logging`; a program that embeds ironflow keeps
its own.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any, TextIO

import orjson

from ironflow.core.terminal import clean

# structlog loads rich wherever it finds it, for tracebacks that are not used here: 3 MiB and 40 ms
# of a server's start.
_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    if _HIDDEN:
        del sys.modules["rich"]

RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(log_format: str, level: str) -> None:
    """Send records of `level` and above to stderr, as `text` or `json`."""
    timestamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _add_extra,
        timestamper,
    ]
    renderer: Any
    steps: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(serializer=_dumps)
    else:
        steps.append(_tame)
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
            # The rich one would print local variables: too much, and secrets among them.
            exception_formatter=_write_traceback,
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[*steps, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.server").addFilter(_hush_malformed)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _tame(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Text of users, who may have it from theirs, can neither act on a terminal nor pass for a line
    of its own: what goes on in a next line is indented.
    """
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _below(clean(value)) if name == "event" else clean(value)
    return event


def _below(text: str) -> str:
    return text.replace("\n", "\n    ")


def _write_traceback(out: TextIO, error: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, error)
    out.write(_below(clean(text.getvalue())))


def _hush_malformed(record: logging.LogRecord) -> bool:
    """Of bytes that are no HTTP their sender has been told; here they are worth a line to whoever
    debugs, not a traceback each.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is None or type(error).__module__ != "aiohttp.http_exceptions":
        return True
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    record.msg, record.args, record.exc_info = "malformed request: %s", (error,), None
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def _add_extra(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event.update({k: v for k, v in vars(record).items() if k not in RESERVED})
    return event


def _dumps(value: Any, **_: Any) -> str:
    return orjson.dumps(value, default=repr).decode()
