"""The format of log events: a stable event name and fields, as a text line or a JSON object.

A module logs `logger.warning("store_unavailable", extra={"partition": 3})`; gateway/EVENTS.md lists all events.
No field holds a token, a key or a text of a user.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

QUIET: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "uvicorn.access", "uvicorn.error")
"""Loggers that write addresses, query strings and, at debug level, whole prompts."""

OURS: Final = ("gateway", "workers", "tests")
"""Packages whose messages are event names; the messages of other packages are text."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormat(logging.Formatter):
    """One line: time, level, logger, `event=NAME`, then the fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: ")

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.asctime = self.formatTime(record)
        line = self.formatMessage(record) + " ".join(
            f"{name}={_quoted(value)}" for name, value in fields(record).items()
        )
        return f"{line}\n{_trace(self, record.exc_info)}" if record.exc_info else line


class JsonFormat(logging.Formatter):
    """One line: a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        at = time.gmtime(record.created)
        event: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            **fields(record),
        }
        if record.exc_info:
            event["trace"] = _trace(self, record.exc_info)
        return json.dumps(event, default=str)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the event name and the fields of a record; fields that are None are left out.

    A record of a foreign package has the event `message` and its text as the field `text`.
    """
    ours = record.name.partition(".")[0] in OURS
    head = {"event": record.getMessage()} if ours else {"event": "message", "text": record.getMessage()}
    if not ours:
        # Other packages attach what they like, whole requests for one.
        return head
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
    return {**head, **extra}


def _trace(formatter: logging.Formatter, exc_info: Any) -> str:
    """Return a traceback without control characters: the exception of a generator may quote what a model sent."""
    text = formatter.formatException(exc_info)
    return "".join(each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in text)


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def set_up(level: str, form: str) -> None:
    """Log to standard error from `level` on; `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if form == "json" else TextFormat())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
