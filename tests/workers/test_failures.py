"""Errors of providers, in any shape."""

from __future__ import annotations

from typing import Any

import pytest

from workers.providers import failures
from workers.providers.failures import MAX_DEPTH, kinds, of_reply, reported


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"message": "x", "code": 429}, "provider_rate_limited"),
        ({"message": "x", "code": "429"}, "provider_rate_limited"),
        ({"message": "x", "code": 429.0}, "provider_rate_limited"),
        ({"message": "x", "code": 0.5}, "provider_error"),
        ({"message": "x", "code": "", "status": True}, "provider_error"),
        ({"code": 400, "status": "RESOURCE_EXHAUSTED"}, "provider_rate_limited"),
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, "provider_refused_key"),
        ({"type": "invalid_request_error", "code": 502}, "provider_error"),
        ({"type": "invalid_request_error"}, "provider_bad_request"),
        ({"type": "insufficient_quota", "code": 429}, "provider_quota"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "provider_overloaded"),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], "provider_overloaded"),
        ({"message": {"error": {"code": 401}}}, "provider_refused_key"),
        ({"message": 'upstream said {"error": {"message": "x", "code": 429}}'}, "provider_rate_limited"),
        ({"message": "{not json", "code": 404}, "provider_unknown_model"),
        ({"metadata": {"raw": '{"error": {"type": "rate_limit_error"}}'}}, "provider_rate_limited"),
        ("Error code: 429 - slow down", "provider_rate_limited"),
        ("503 Service Unavailable", "provider_overloaded"),
        ("overloaded", "provider_overloaded"),
        ("out of memory", "provider_error"),
        (429, "provider_rate_limited"),
        (True, "provider_error"),
        (None, "provider_error"),
        ({}, "provider_error"),
        ({"code": 7, "type": "unheard_of"}, "provider_error"),
        ({"code": "context_length_exceeded"}, "provider_bad_request"),
        (("unheard_of", None), "provider_error"),
        ((7, "overloaded_error"), "provider_overloaded"),
    ],
)
def test_error_in_any_shape_has_its_code(value: Any, code: str) -> None:
    failure = reported(value)
    assert failure.code == code
    assert "x" not in failure.message.split()


@pytest.mark.parametrize(
    ("status", "body", "code", "retryable"),
    [
        (400, None, "provider_bad_request", False),
        (
            400,
            {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}},
            "provider_refused_key",
            False,
        ),
        (400, [{"error": {"status": "RESOURCE_EXHAUSTED"}}], "provider_rate_limited", True),
        (401, {"type": "not_found_error"}, "provider_refused_key", False),
        (402, None, "provider_quota", False),
        (403, None, "provider_refused_key", False),
        (404, None, "provider_unknown_model", False),
        (408, None, "provider_bad_request", True),
        (429, {"code": "insufficient_quota"}, "provider_quota", False),
        (429, "slow", "provider_rate_limited", True),
        (500, {"type": "overloaded_error"}, "provider_overloaded", True),
        (503, None, "provider_overloaded", True),
        (504, None, "provider_error", True),
        (304, None, "provider_misconfigured", False),
    ],
)
def test_status_has_its_code(status: int, body: Any, code: str, *, retryable: bool) -> None:
    failure = of_reply(status, body)
    assert (failure.code, failure.retryable) == (code, retryable)
    assert failure.__notes__ == [f"HTTP status {status}"]


@pytest.mark.parametrize(
    ("value", "is_error"),
    [
        (None, False),
        (False, False),
        ("", False),
        (0, False),
        ([], False),
        ({"code": None, "message": ""}, False),
        ({}, False),
        ([{}], False),
        ("null", False),
        ("0", False),
        ("success", False),
        (200, False),
        ({"code": "200"}, False),
        ({"code": 0, "message": "success"}, False),
        ({"code": 0, "request_id": "x"}, False),
        ({"code": 200, "message": "Done in 3 s."}, False),
        ({"code": 200, "message": "rate limit exceeded"}, True),
        ({"code": 0, "message": "out of memory"}, True),
        ({"code": 0, "message": {"code": 429}}, True),
        ({"code": 429, "status": "ok"}, True),
        ({"message": "success"}, False),
        ({"request_id": "x"}, True),
        (True, True),
        ({"code": 1}, True),
        ("x", True),
        (["x"], True),
    ],
)
def test_empty_error_fields_are_no_error(value: Any, *, is_error: bool) -> None:
    assert failures.is_error(value) is is_error


def test_errors_in_errors_have_a_limit() -> None:
    value: Any = {"code": 429}
    for _ in range(MAX_DEPTH):
        value = {"error": value}
    assert kinds(value) == [429]
    assert kinds({"error": value}) == []


def test_specific_replies_are_told_from_general_ones() -> None:
    assert failures.is_specific({"error": {"code": "context_length_exceeded"}})
    assert not failures.is_specific({"error": {"type": "invalid_request_error", "code": 400}})


def test_failures_of_an_exchange() -> None:
    assert failures.incomplete().code == "provider_incomplete"
    assert failures.malformed().code == "provider_malformed"
    assert failures.misconfigured().code == "provider_misconfigured"
    assert not failures.misconfigured().retryable
    stopped = failures.stopped("abort")
    assert (stopped.code, stopped.detail, stopped.retryable) == ("provider_stopped", "abort", True)


FILLERS: tuple[Any, ...] = ("ok", "processing", "in_progress", "success", "200", 200, 0, "", None, [], {})


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"code": 429}}, "provider_rate_limited"),
        ({"errors": [{"code": 429}], "choices": []}, "provider_rate_limited"),
        ({"type": "error"}, "provider_error"),
        ({"object": "error", "code": 400}, "provider_bad_request"),
        ({"status_code": 503}, "provider_overloaded"),
        ({"error": None, "code": 0}, None),
        ({"choices": [], "code": 429}, "provider_rate_limited"),
        ({"choices": [{}], "code": 429}, None),
        ({"error": None, "errors": [{"code": 429}]}, "provider_rate_limited"),
        ({"Error": {"Code": "AccessDenied", "Message": "m"}}, "provider_refused_key"),
        ({"base_resp": {"status_code": 1002, "status_msg": "m"}, "choices": [{}]}, "provider_rate_limited"),
        ({"base_resp": {"status_code": 0, "status_msg": ""}}, None),
        ({"base_resp": {"status_code": 9}}, "provider_error"),
        ({"success": False, "message": "quota exceeded"}, "provider_quota"),
        ({"ok": "false"}, "provider_error"),
        ({"success": True}, None),
        ({"error_code": 17, "error_msg": "request limit reached"}, "provider_rate_limited"),
        ({"code": 1113, "msg": "m", "success": False}, "provider_quota"),
        ({"code": "Throttling.RateQuota", "message": "m"}, "provider_rate_limited"),
        ({"object": "error", "code": 40303}, "provider_bad_request"),
        ({"type": "response.failed"}, "provider_error"),
        ({"status": "failed", "message": "The model is overloaded"}, "provider_overloaded"),
        *(
            ({name: value}, None)
            for name in ("status", "code", "type", "object", "error", "message")
            for value in FILLERS
        ),
        ({"message": {"content": "x"}, "status": "ok"}, None),
        ({"type": "ping"}, None),
    ],
)
def test_error_of_an_event_is_found(event: dict[str, Any], code: str | None) -> None:
    failure = failures.in_event(event)
    assert (failure.code if failure is not None else None) == code


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"message": "Invalid API key"}, "provider_refused_key"),
        ({"detail": "Invalid API key"}, "provider_refused_key"),
        ({"detail": [{"loc": ["body", "model"], "msg": "unknown"}]}, "provider_bad_request"),
        ({"message": "rate limit", "choices": []}, "provider_rate_limited"),
        ({"message": "no idea"}, "provider_error"),
        ({"code": 17}, "provider_error"),
        ({"error": {}}, "provider_error"),
        ({"detail": {"error": "rate_limit_exceeded"}}, "provider_rate_limited"),
        ({"message": {"code": 429}}, "provider_rate_limited"),
        ({"message": {"error": None}}, None),
        ({"message": "heartbeat"}, None),
        ({"message": {"content": "x"}}, None),
        ({"message": "x", "choices": [{}]}, None),
        ({"status": "queued"}, None),
        ({}, None),
    ],
)
def test_event_may_be_an_error_if_nothing_else_arrives(event: dict[str, Any], code: str | None) -> None:
    failure = failures.unclear(event)
    assert (failure.code if failure is not None else None) == code


def test_error_of_a_body_can_be_a_refusal_of_parameters() -> None:
    failure = failures.unclear({"message": "Unrecognized request argument supplied: stream_options"})
    assert failure is not None
    assert failure.rejection == (400, {"message": "Unrecognized request argument supplied: stream_options"})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("error: rate limit exceeded", "provider_rate_limited"),
        ("error: no idea", "provider_error"),
        ("ping", None),
        ("OPENROUTER PROCESSING", None),
        ("[ERROR] 401 Unauthorized", "provider_refused_key"),
        ('{"error": {"code": 4', None),
        ('data: [{"error": "rate limit', None),
        ("", None),
    ],
)
def test_text_of_an_event_may_name_an_error(text: str, code: str | None) -> None:
    failure = failures.of_text(text)
    assert (failure.code if failure is not None else None) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [("<html>Sign in</html>", "provider_error"), ("503 Service Unavailable", "provider_overloaded"), (" \n", None)],
)
def test_body_of_another_type_is_an_error(text: str, code: str | None) -> None:
    failure = failures.of_body(text)
    assert (failure.code if failure is not None else None) == code


def test_error_that_is_nested_deeply_is_one() -> None:
    value: Any = {"code": 0}
    for number in range(5_000):
        value = {"error": value} if number % 2 else [value]
    assert failures.is_error(value)
    assert failures.in_event({"error": value}) is not None
