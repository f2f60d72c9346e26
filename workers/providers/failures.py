"""Failures of a provider as ProviderErrors: by HTTP status, or by the names in an error object of any shape.

A core module. What a provider says is never quoted: it may contain a key or a prompt.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from workers.providers import ProviderError

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


def is_error(value: Any) -> bool:
    """Tell whether the field `error` of an event is one: servers send `null`, `false` or empty fields in each event."""
    if isinstance(value, dict) and value:
        return any(each not in (None, "", 0, False) for each in value.values())
    return value == {} or bool(value)


_FAILURE_FIELDS: Final = ("code", "status", "status_code", "error_code", "error_msg")
_ANSWER_FIELDS: Final = ("choices", "delta", "content_block", "content", "usage")


def in_event(event: dict[str, Any]) -> ProviderError | None:
    """Return the error that an event reports: in its field for one, or in the event itself."""
    error = event.get("error", event.get("errors"))
    if is_error(error):
        return reported(error)
    if any(name in event for name in _ANSWER_FIELDS) or isinstance(event.get("message"), dict):
        return None
    failed = "error" in (event.get("object"), event.get("type")) or any(
        is_error(event.get(name)) for name in _FAILURE_FIELDS
    )
    return reported(event) if failed else None


def kinds(value: Any, depth: int = 0) -> list[Kind]:
    """Return the codes, types and statuses of an error object, the outermost first."""
    if depth > MAX_DEPTH:
        return []
    match value:
        case dict():
            own = [kind for name in _CODES if (kind := _kind(value.get(name))) is not None]
            return own + [kind for name in _NESTED if name in value for kind in kinds(value[name], depth + 1)]
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
    return [text] if _normal(text) in _STATUS_OF_KIND else []


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


_CODES: Final = (
    "code",
    "type",
    "status",
    "reason",
    "status_code",
    "statusCode",
    "http_status",
    "http_code",
    "error_type",
    "error_code",
    "kind",
    "name",
)
_NESTED: Final = (
    "error",
    "errors",
    "message",
    "detail",
    "details",
    "metadata",
    "cause",
    "raw",
    "inner_error",
    "innererror",
)


def reported(value: Any) -> ProviderError:
    """Return the error for an error object of any shape, or for a list of its kinds. Unknown ones are retryable."""
    found = value if isinstance(value, tuple) else kinds(value)
    status, name = _status(found)
    failure = of_status(status or 500, name)
    failure.rejection = (status or 500, value)
    return failure


def of_reply(status: int, body: Any) -> ProviderError:
    """Return the error for a reply with an HTTP status of an error, and its decoded body."""
    named, name = _named(kinds(body), _SPECIFIC)
    # A status of the provider's own, or one that stands for everything, says less than a name.
    failure = of_status(named if named and (status in (400, 500) or named == 402) else status, name)
    # The status is the only part of the provider's reply that a log may contain.
    failure.add_note(f"HTTP status {status}")
    return failure


def is_specific(body: Any) -> bool:
    """Tell whether a reply names its cause, so that no other parameter would help."""
    return _named(kinds(body), _SPECIFIC)[0] != 0


def _status(found: tuple[Any, ...] | list[Kind]) -> tuple[int, str]:
    status, name = _named(found, _SPECIFIC)
    if status:
        return status, name
    number = next((kind for kind in found if isinstance(kind, int) and 400 <= kind < 600), 0)
    return (number, "") if number else _named(found, _GENERIC)


def _named(found: tuple[Any, ...] | list[Kind], names: dict[str, int]) -> tuple[int, str]:
    normal = (_normal(kind) for kind in found if isinstance(kind, str))
    name = next((each for each in normal if each in names), "")
    return names.get(name, 0), name


def _normal(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _table(**names: str) -> dict[str, int]:
    return {_normal(name): int(status[1:]) for status, each in names.items() for name in each.split()}


# Names from https://platform.claude.com/docs/en/api/errors, https://platform.openai.com/docs/guides/error-codes and
# https://cloud.google.com/apis/design/errors; others are those of common servers and routers.
_SPECIFIC: Final = _table(
    s400="context_length_exceeded string_above_max_length content_policy_violation",
    s401="authentication_error invalid_api_key api_key_invalid unauthenticated unauthorized invalid_authentication "
    "invalid_authentication_error incorrect_api_key authenticationerror",
    s402="billing_error insufficient_quota insufficient_credits insufficient_balance payment_required "
    "billing_hard_limit_reached billing_not_active exceeded_current_quota_error",
    s403="permission_error permission_denied forbidden account_deactivated access_denied access_denied_exception "
    "permissiondeniederror",
    s404="not_found_error not_found model_not_found deployment_not_found notfounderror unknown_model",
    s413="request_too_large",
    s429="rate_limit_error rate_limit_exceeded rate_limit rate_limited rate_limit_reached resource_exhausted "
    "too_many_requests throttling throttling_exception ratelimiterror requests_limit tokens_limit",
    s503="unavailable service_unavailable service_unavailable_error model_overloaded engine_overloaded "
    "engine_overloaded_error overloaded service_unavailable_exception",
    s529="overloaded_error",
    s504="timeout timeout_error deadline_exceeded gateway_timeout request_timeout",
)
_GENERIC: Final = _table(
    s400="invalid_request_error invalid_argument bad_request bad_request_error badrequesterror failed_precondition "
    "validation_error validation_exception",
    s500="api_error server_error internal_server_error internal internal_error internalservererror",
    s502="bad_gateway",
)
_STATUS_OF_KIND: Final = _SPECIFIC | _GENERIC
_QUOTA: Final = frozenset(name for name, status in _SPECIFIC.items() if status == 402)


def of_status(status: int, name: str = "") -> ProviderError:
    """Return the error for an HTTP status; `name`: the name of the error in the reply, without separators."""
    if status == 402 or name in _QUOTA:
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
