"""What is logged, and how it is written: one line an event, with the ids that it is about, and never a text."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

IDS: Final = ("conversation", "response", "attempt")
"""What a record may be about, given to a logger as `extra`: whoever looks for one of these finds all of its events."""

QUIET: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "uvicorn.access", "uvicorn.error")
"""Loggers that write addresses, query strings and, at debug level, whole prompts."""


class TextFormat(logging.Formatter):
    """A line for people; the ids stand behind."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """See `logging.Formatter`."""
        ids = [f"{name}={value}" for name, value in about(record).items()]
        return " ".join([super().formatMessage(record), *ids])


class JsonFormat(logging.Formatter):
    """A line for machines: an object, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        at = time.gmtime(record.created)
        event: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', at)}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **about(record),
        }
        if record.exc_info:
            event["trace"] = self.formatException(record.exc_info)
        return json.dumps(event)


def about(record: logging.LogRecord) -> dict[str, Any]:
    """The ids that a record is about."""
    found = {name: getattr(record, name, None) for name in IDS}
    return {name: value for name, value in found.items() if value is not None}


def set_up(level: str, form: str) -> None:
    """Log to the standard error from `level` on, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if form == "json" else TextFormat())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
