"""Failures of a provider as ProviderErrors: by HTTP status, or by the names in an error object of any shape.

A core module. What a provider says is never quoted: it may contain a key or a prompt.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from workers.providers import ProviderError, error_names

MAX_DEPTH: Final = 6
"""Of errors inside of errors; routers wrap those of the provider behind them."""

Kind = str | int
"""A code, type or status of an error object."""

_STATUS: Final = re.compile(r"(?:^|(?:code|status|error)\W{0,3})([45]\d\d)\b", re.ASCII | re.IGNORECASE)


def incomplete() -> ProviderError:
    """Return the error for a body that ended before the answer."""
    return ProviderError("provider_incomplete", "The answer ended before it was complete.", retryable=True)


def malformed() -> ProviderError:
    """Return the error for a body that does not follow the provider's API."""
    return ProviderError("provider_malformed", "The model provider sent an invalid answer.", retryable=True)


def stopped(detail: str) -> ProviderError:
    """Return the error for an answer that ended for a reason that is not known to be a success."""
    error = ProviderError(
        "provider_stopped", "The model provider stopped before the answer was complete.", retryable=True
    )
    error.detail = detail
    error.add_note(f"finish reason {detail}")
    return error


def misconfigured() -> ProviderError:
    """Return the error for a request that cannot be sent."""
    message = "The model provider is not configured correctly."
    return ProviderError("provider_misconfigured", message, retryable=False)


def is_error(value: Any, depth: int = 0) -> bool:
    """Tell whether the field `error` of an event is one: servers send empty fields, or a success, in each event."""
    match value:
        case dict():
            return depth > MAX_DEPTH or _is_error_object(error_names.fields(value), depth)
        case list():
            return depth > MAX_DEPTH or any(is_error(each, depth + 1) for each in value)
        case _:
            return not _is_empty(value) and not error_names.is_success(value)


def _is_error_object(fields: dict[str, Any], depth: int) -> bool:
    codes = [each for name in error_names.CODES if not _is_empty(each := fields.get(name))]
    texts = [each for name in error_names.TEXTS if not _is_empty(each := fields.get(name))]
    if any(map(error_names.is_failure, codes)):
        return True
    if any(map(error_names.is_success, codes)):
        return any(error_names.in_text(text)[0] for text in texts if isinstance(text, str))
    if codes or any(is_error(text, depth + 1) for text in texts):
        return True
    # Other fields only describe a success; without one they are an error of unknown shape.
    succeeded = bool(texts) or any(_is_zero(fields.get(name)) for name in error_names.CODES)
    return not succeeded and not all(map(_is_empty, fields.values()))


def _is_empty(value: Any) -> bool:
    return value in (None, "", "null", False, [], {}) or _is_zero(value)


def _is_zero(value: Any) -> bool:
    return value == 0 or (isinstance(value, str) and value.strip() != "" and not value.strip(" 0"))


def in_event(event: dict[str, Any]) -> ProviderError | None:
    """Return the error that an event reports: in its field for one, or in the event itself."""
    fields = error_names.fields(event)
    for name in error_names.ERRORS:
        if name in fields and is_error(fields[name]):
            return reported({name: fields[name]} if name == error_names.BASE_RESPONSE else fields[name])
    if any(fields.get(name) for name in error_names.ANSWERS) or isinstance(fields.get("message"), dict):
        return None
    failed = (
        any(error_names.is_failure_type(fields.get(name)) for name in error_names.TYPES)
        or any(error_names.is_failure(fields.get(name)) for name in error_names.STATUSES)
        or any(is_error(fields.get(name)) for name in error_names.FAILURES)
        or any(fields.get(name) is False or fields.get(name) == "false" for name in error_names.VERDICTS)
    )
    return reported(event) if failed else None


def unclear(event: dict[str, Any]) -> ProviderError | None:
    """Return the error that an event may be if the body contains nothing of an answer; None for a filler."""
    fields = error_names.fields(event)
    if any(fields.get(name) for name in error_names.ANSWERS):
        return None
    said = [fields[name] for name in (*error_names.TEXTS, "code") if not _is_empty(fields.get(name))]
    if any(isinstance(each, str | int | list) and not error_names.is_success(each) for each in said):
        return reported(event)
    nested = (each for each in said if isinstance(each, dict) and _NESTED_NAMES & error_names.fields(each).keys())
    if any(map(is_error, nested)):
        return reported(event)
    return reported({}) if fields.get("error") == {} else None


def of_text(text: str) -> ProviderError | None:
    """Return the error that a text names, which is not JSON; None for a filler, and for JSON that is cut off."""
    if _OBJECT.match(text):
        return None
    status, _ = error_names.in_text(text)
    return reported(text) if status or error_names.is_failure_text(text) else None


def of_body(text: str) -> ProviderError | None:
    """Return the error for a body that is neither JSON nor an event stream, such as a page; None if it is blank."""
    return reported(text) if text.strip() else None


def kinds(value: Any, depth: int = 0) -> list[Kind]:
    """Return the codes, types and statuses of an error object, the outermost first."""
    if depth > MAX_DEPTH:
        return []
    match value:
        case dict():
            fields = error_names.fields(value)
            own = [kind for name in error_names.CODES if (kind := _kind(fields.get(name))) is not None]
            if error_names.is_validation(fields.get("detail")):
                own.append(422)
            nested = [kind for name in _NESTED if name in fields for kind in kinds(fields[name], depth + 1)]
            return own + nested + error_names.of_base_response(fields.get(error_names.BASE_RESPONSE))
        case list():
            return [kind for item in value for kind in kinds(item, depth + 1)]
        case str():
            return _kinds_of_text(value.strip(), depth)
        case int() if not isinstance(value, bool):
            return [value]
        case _:
            return []


def _kinds_of_text(text: str, depth: int) -> list[Kind]:
    start = text.find("{")
    if start >= 0:
        # Routers quote the error of the provider behind them.
        try:
            return kinds(json.loads(text[start:]), depth + 1) + _kinds_of_text(text[:start], depth)
        except (ValueError, RecursionError):
            pass
    if found := _STATUS.search(text):
        return [int(found[1])]
    return [text] if error_names.normal(text) in error_names.STATUS_OF_KIND else []


def _kind(value: Any) -> Kind | None:
    match value:
        case str():
            text = value.strip()
            return int(text) if text.isascii() and text.isdigit() and len(text) == 3 else text or None
        case int() if not isinstance(value, bool):
            return value
        case float() if value.is_integer():
            return int(value)
        case _:
            return None


_NESTED: Final = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "metadata",
    "cause",
    "raw",
    "innererror",
    "fault",
)


_OBJECT: Final = re.compile(r"[\s\ufeff]*(?:data:\s*)*\[?\s*\{")
_NESTED_NAMES: Final = frozenset({"error", "errors", "code", "msg"})


def reported(value: Any) -> ProviderError:
    """Return the error for an error object of any shape, or for a list of its kinds. Unknown ones are retryable."""
    found = value if isinstance(value, tuple) else kinds(value)
    status, name = _status(found)
    if status in (0, 500) and not isinstance(value, tuple):
        # A text says less than a name, and more than none.
        status, name = next(filter(any, map(error_names.in_text, error_names.texts(value))), (status, name))
    failure = of_status(status or 500, name)
    failure.rejection = (status or 500, value)
    return failure


def of_reply(status: int, body: Any) -> ProviderError:
    """Return the error for a reply with an HTTP status of an error, and its decoded body."""
    named, name = _named(kinds(body), error_names.SPECIFIC)
    # A status of the provider's own, or one that stands for everything, says less than a name.
    failure = of_status(named if named and (status in (400, 500) or named == 402) else status, name)
    # The status is the only part of the provider's reply that a log may contain.
    failure.add_note(f"HTTP status {status}")
    return failure


def is_specific(body: Any) -> bool:
    """Tell whether a reply names its cause, so that no other parameter would help."""
    return _named(kinds(body), error_names.SPECIFIC)[0] != 0


def _status(found: tuple[Any, ...] | list[Kind]) -> tuple[int, str]:
    status, name = _named(found, error_names.SPECIFIC)
    if status:
        return status, name
    number = next((status for kind in found if isinstance(kind, int) and (status := error_names.status(kind))), 0)
    return (number, "") if number else _named(found, error_names.GENERIC)


def _named(found: tuple[Any, ...] | list[Kind], names: dict[str, int]) -> tuple[int, str]:
    normal = (error_names.normal(each) for kind in found if isinstance(kind, str) for each in (kind, *kind.split(".")))
    name = next((each for each in normal if each in names), "")
    return names.get(name, 0), name


def of_status(status: int, name: str = "") -> ProviderError:
    """Return the error for an HTTP status; `name`: the name of the error in the reply, without separators."""
    if status == 402 or name in error_names.QUOTA:
        # OpenAI sends 429 here as well, but waiting does not refill an account.
        return ProviderError("provider_quota", "The account at the model provider has no credit left.", retryable=False)
    match status:
        case _ if 300 <= status < 400:
            # A redirect is not followed: another host would get the prompt.
            return misconfigured()
        case 401 | 403:
            return ProviderError("provider_refused_key", "The model provider rejected the API key.", retryable=False)
        case 404:
            return ProviderError("provider_unknown_model", "The model provider has no such model.", retryable=False)
        case 429:
            return ProviderError(
                "provider_rate_limited", "The model provider limits the request rate. Try again soon.", retryable=True
            )
        case 503 | 529:
            return ProviderError(
                "provider_overloaded", "The model provider is overloaded. Try again soon.", retryable=True
            )
        case _ if status >= 500:
            return ProviderError("provider_error", "The model provider failed.", retryable=True)
        case _:
            message = "The model provider rejected this request."
            return ProviderError("provider_bad_request", message, retryable=status in (408, 409))
