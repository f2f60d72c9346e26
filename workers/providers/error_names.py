"""Names, numbers and phrases of the errors of providers, and of the fillers that look like errors. A core module.

Names come from https://platform.claude.com/docs/en/api/errors, https://platform.openai.com/docs/guides/error-codes and
https://cloud.google.com/apis/design/errors; others are those of common servers and routers.
"""

from __future__ import annotations

import re
from typing import Any, Final

MAX_TEXT: Final = 4_000
"""Characters of a text that are searched for names and phrases."""

MAX_NAME: Final = 64
"""Characters of a code or status that are searched."""

MAX_DEPTH: Final = 6
"""Of texts inside of error objects."""

BASE_RESPONSE: Final = "baseresp"
"""The field in which MiniMax reports each success and failure."""

# Names of fields have no separators and no capitals, see `fields`.
ERRORS: Final = ("error", "errors", "err", "fault", "exception", BASE_RESPONSE)
"""Fields that contain an error, or say that there is none."""

CODES: Final = (
    "code",
    "type",
    "status",
    "reason",
    "statuscode",
    "httpstatus",
    "httpcode",
    "errortype",
    "errorcode",
    "errcode",
    "kind",
    "name",
)
TEXTS: Final = (
    "message",
    "msg",
    "detail",
    "details",
    "statusmsg",
    "errormsg",
    "errmsg",
    "errormessage",
    "errordescription",
    "description",
    "title",
    "faultstring",
    "error",
    "errors",
    "fault",
    "raw",
    "metadata",
    "cause",
    "innererror",
)
ANSWERS: Final = ("choices", "delta", "contentblock", "content")
"""Fields of an answer: a status beside them is that of the answer."""

TYPES: Final = ("object", "type", "event")
STATUSES: Final = ("code", "status", "statuscode", "httpstatus", "httpcode", "state", "retcode")
FAILURES: Final = ("errorcode", "errormsg", "errcode", "errmsg", "errormessage", "errortype", "errno")
VERDICTS: Final = ("success", "ok", "succeeded", "issuccess")


def normal(name: str) -> str:
    """Return a name without separators and capitals."""
    return "".join(filter(str.isalnum, name.lower()))


def fields(value: dict[Any, Any]) -> dict[str, Any]:
    """Return an object under normal names: servers write `errorCode`, `error_code` and `ErrorCode`."""
    return {name.replace("_", "").lower(): each for name, each in value.items() if isinstance(name, str)}


def _table(**names: str) -> dict[str, int]:
    return {normal(name): int(status[1:]) for status, each in names.items() for name in each.split()}


SPECIFIC: Final = _table(
    s400="context_length_exceeded string_above_max_length content_policy_violation",
    s401="authentication_error invalid_api_key api_key_invalid unauthenticated unauthorized invalid_authentication "
    "invalid_authentication_error incorrect_api_key authenticationerror unrecognized_client_exception",
    s402="billing_error insufficient_quota insufficient_credits insufficient_balance payment_required "
    "billing_hard_limit_reached billing_not_active exceeded_current_quota_error arrearage",
    s403="permission_error permission_denied forbidden account_deactivated access_denied access_denied_exception "
    "permissiondeniederror",
    s404="not_found_error not_found model_not_found deployment_not_found notfounderror unknown_model "
    "resource_not_found_exception",
    s413="request_too_large",
    s429="rate_limit_error rate_limit_exceeded rate_limit rate_limited rate_limit_reached resource_exhausted "
    "too_many_requests throttling throttling_exception ratelimiterror requests_limit tokens_limit throttled",
    s503="unavailable service_unavailable service_unavailable_error model_overloaded engine_overloaded "
    "engine_overloaded_error overloaded service_unavailable_exception server_overloaded",
    s529="overloaded_error",
    s504="timeout timeout_error deadline_exceeded gateway_timeout request_timeout",
)
GENERIC: Final = _table(
    s400="invalid_request_error invalid_argument bad_request bad_request_error badrequesterror failed_precondition "
    "validation_error validation_exception invalid_parameter",
    s500="api_error server_error internal_server_error internal internal_error internalservererror",
    s502="bad_gateway",
)
STATUS_OF_KIND: Final = SPECIFIC | GENERIC
QUOTA: Final = frozenset(name for name, status in SPECIFIC.items() if status == 402)

_NUMBERS: Final = {
    # Zhipu.
    1113: 402,
    1211: 404,
    1301: 400,
    1302: 429,
    1303: 429,
    1304: 429,
    1305: 429,
    # Servers that are made after FastChat.
    40301: 404,
    40302: 400,
    40303: 400,
    42902: 402,
    42903: 503,
}
_BASE_RESPONSE: Final = {
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1026: 400,
    1027: 400,
    1039: 429,
    2013: 400,
    2049: 401,
}
"""From https://platform.minimax.io/docs/api-reference/errorcode; the same numbers mean others elsewhere."""


def status(code: int) -> int:
    """Return the HTTP status for a number of an error; 0 for an unknown one."""
    if 400 <= code < 600:
        return code
    if code in _NUMBERS:
        return _NUMBERS[code]
    # Many servers add two digits to a status.
    return code // 100 if 40_000 <= code < 60_000 else 0


def of_base_response(value: Any) -> list[int]:
    """Return the HTTP status of MiniMax's field, if its number is known."""
    code = fields(value).get("statuscode") if isinstance(value, dict) else None
    known = _BASE_RESPONSE.get(_number(code) or 0)
    return [] if known is None else [known]


def is_validation(detail: Any) -> bool:
    """Tell whether a field `detail` lists invalid fields of the request, as FastAPI does."""
    return isinstance(detail, list) and any(isinstance(each, dict) and "loc" in each for each in detail)


_SUCCESSES: Final = frozenset(
    _table(
        s200="ok okay success successful successfully succeeded done complete completed finished normal none null "
        "no_error false accepted created pending queued waiting started starting running active processing in_progress "
        "generating streaming thinking loading continue incomplete heartbeat ping pong alive keep_alive"
    )
)


def is_success(value: Any) -> bool:
    """Tell whether a code, status or text says that nothing failed, or that the work goes on."""
    match value:
        case str():
            text = value.strip()
            return normal(text) in _SUCCESSES or _is_ok(_number(text))
        case bool():
            return False
        case int() | float():
            return _is_ok(value)
        case _:
            return False


def _is_ok(number: float | None) -> bool:
    return number is not None and (100 <= number < 300 or number in (20_000, 200_000))


def _number(value: Any) -> int | None:
    match value:
        case str() if value.strip().isascii() and value.strip().isdigit() and len(value) <= 10:
            return int(value)
        case int() if not isinstance(value, bool):
            return value
        case float() if value.is_integer():
            return int(value)
        case _:
            return None


_FAILURE: Final = re.compile(
    "error|exception|fail|invalid|denied|exceeded|unauthorized|forbidden|limit|quota|notfound|unavailable|overload"
    "|throttl|timeout|timedout|expired|arrear|insufficient|unsupported|reject|abort|cancel|badrequest|missing"
)
_FAILURE_TYPE: Final = re.compile(r"\w*(?:error|exception|failed|failure)", re.ASCII)
_FAILURE_TEXT: Final = re.compile(r"\W*(?:error|exception|fatal|failed|failure|traceback)\b", re.ASCII | re.IGNORECASE)


def is_failure(code: Any) -> bool:
    """Tell whether a code or status is that of an error."""
    if isinstance(code, str) and _number(code) is None:
        name = normal(code[:MAX_NAME])
        return name not in _SUCCESSES and (name in STATUS_OF_KIND or _FAILURE.search(name) is not None)
    number = _number(code)
    return number is not None and status(number) != 0


def is_failure_type(name: Any) -> bool:
    """Tell whether a type of an event or object is that of an error."""
    if not isinstance(name, str):
        return False
    return _FAILURE_TYPE.fullmatch(normal(name)) is not None and normal(name) not in _SUCCESSES


def is_failure_text(text: str) -> bool:
    """Tell whether a text begins as that of an error does."""
    return _FAILURE_TEXT.match(text) is not None


_PHRASES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.ASCII), name)
    for pattern, name in (
        (r"rate.?limit|too (?:many|frequent)|requests? (?:per|limit)|per (?:minute|second|day)|throttl", "ratelimit"),
        (r"limit reached|slow down|concurrency", "ratelimit"),
        (
            r"quota|balance|(?:no|insufficient|out of|more|enough) (?:credit|fund)|billing|payment|arrears",
            "insufficientquota",
        ),
        (
            r"(?:api|access|auth)[ _-]?(?:key|token)|unauthori[sz]ed|not authori[sz]ed|authenticat|log ?in\b",
            "unauthorized",
        ),
        (r"(?:permission|access)(?: is| was)? denied|forbidden|not allowed to", "forbidden"),
        (r"(?:model|deployment)\b.{0,80}?(?:not found|not exist|unknown)|(?:unknown|no such) model", "modelnotfound"),
        (r"overload|capacity|too busy|server busy|unavailable|maintenance", "overloaded"),
        (r"timed? ?out|deadline", "timeout"),
        (r"context length|context window|too long", "contextlengthexceeded"),
        (r"bad gateway", "badgateway"),
        (r"internal (?:server )?error", "internalservererror"),
        (r"bad request|invalid (?:request|param|argument|value)|unrecogni[sz]ed|unsupported|validation", "badrequest"),
    )
)
_STATUS: Final = re.compile(
    r"(?:^|(?i:code|status|error|http))\W{0,3}([45]\d\d)\b|\b([45]\d\d)\W{1,3}[A-Z][a-z]", re.ASCII
)
_TAG: Final = re.compile(r"<[^<>]*>")
_WORD: Final = re.compile(r"[A-Za-z_]{5,60}", re.ASCII)


def in_text(text: str) -> tuple[int, str]:
    """Return the HTTP status and the name of the error that a text describes; 0 and "" if it describes none."""
    text = _TAG.sub(" ", text[:MAX_TEXT]).strip()
    if found := _STATUS.search(text):
        return int(found[1] or found[2]), ""
    name = next((name for word in _WORD.findall(text) if (name := normal(word)) in SPECIFIC and len(name) > 8), "")
    name = name or next((name for pattern, name in _PHRASES if pattern.search(text)), "")
    return STATUS_OF_KIND.get(name, 0), name


def texts(value: Any, depth: int = 0) -> list[str]:
    """Return the texts of an error object of any shape, the outermost first."""
    match value:
        case str():
            return [value]
        case list() if depth < MAX_DEPTH:
            return [text for item in value for text in texts(item, depth + 1)]
        case dict() if depth < MAX_DEPTH:
            named = fields(value)
            names = (*TEXTS, *ERRORS, *CODES)
            return [text for name in dict.fromkeys(names) for text in texts(named.get(name), depth + 1)]
        case _:
            return []
