"""Names, numbers and phrases of errors, and of fillers."""

from __future__ import annotations

from typing import Any

import pytest

from workers.providers import error_names
from workers.providers.error_names import MAX_DEPTH, MAX_NAME


def test_names_of_fields_have_no_separators_and_capitals() -> None:
    assert error_names.fields({"error_Code": 1, "Message": 2, 3: 4}) == {"errorcode": 1, "message": 2}
    assert error_names.normal("Rate-limit_exceeded") == "ratelimitexceeded"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (400, 400),
        (599, 599),
        (600, 0),
        (200, 0),
        (17, 0),
        (1113, 402),
        (40303, 400),
        (42901, 429),
        (50_000, 500),
        (60_000, 0),
    ],
)
def test_number_has_the_status_that_it_stands_for(code: int, status: int) -> None:
    assert error_names.status(code) == status


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"status_code": 1002}, [429]),
        ({"status_code": "1004"}, [401]),
        ({"status_code": 1008.0}, [402]),
        ({"status_code": 0}, []),
        ({"status_code": True}, []),
        ({"status_code": 0.5}, []),
        ({}, []),
        ("1002", []),
    ],
)
def test_base_response_has_numbers_of_its_own(value: Any, found: list[int]) -> None:
    assert error_names.of_base_response(value) == found


def test_validation_lists_places() -> None:
    assert error_names.is_validation([{"loc": ["body", "model"], "msg": "unknown"}])
    assert not error_names.is_validation(["x", {}])
    assert not error_names.is_validation("loc")


@pytest.mark.parametrize(
    "value", ["ok", "SUCCESS", " in-progress ", "200", 200, 201.0, 100, "20000", "keep-alive", "NoError"]
)
def test_successes_and_fillers(value: Any) -> None:
    assert error_names.is_success(value)
    assert not error_names.is_failure(value)
    assert not error_names.is_failure_type(value)


@pytest.mark.parametrize("value", ["", "failed", "x", 0, 404, "404", True, None, [], {}, 0.5, "²", "1" * 11])
def test_other_values_are_no_success(value: Any) -> None:
    assert not error_names.is_success(value)


@pytest.mark.parametrize(
    ("value", "is_failure"),
    [
        (404, True),
        ("503", True),
        (429.0, True),
        ("failed", True),
        ("InvalidParameter", True),
        ("Throttling.RateQuota", True),
        ("RESOURCE_EXHAUSTED", True),
        ("ping", False),
        ("x" * MAX_NAME + "error", False),
        ("17", False),
        (17, False),
        (None, False),
        (True, False),
        ([], False),
    ],
)
def test_codes_and_statuses_of_errors(value: Any, *, is_failure: bool) -> None:
    assert error_names.is_failure(value) is is_failure


@pytest.mark.parametrize(
    ("value", "is_failure"),
    [
        ("error", True),
        ("response.failed", True),
        ("RateLimitError", True),
        ("rate_limits.updated", False),
        ("no_error", False),
        ("chat.completion.chunk", False),
        (7, False),
        (None, False),
    ],
)
def test_types_of_errors(value: Any, *, is_failure: bool) -> None:
    assert error_names.is_failure_type(value) is is_failure


@pytest.mark.parametrize(
    ("text", "status", "name"),
    [
        ("error: rate limit exceeded", 429, "ratelimit"),
        ("Open api daily request limit reached", 429, "ratelimit"),
        ("HTTP 502", 502, ""),
        ("status: 503", 503, ""),
        ("<html><title>401 Authorization Required</title>", 401, ""),
        ("<Error><Code>AccessDenied</Code></Error>", 403, "accessdenied"),
        ("quota exceeded", 402, "insufficientquota"),
        ("You have no credits left", 402, "insufficientquota"),
        ("Invalid API key", 401, "unauthorized"),
        ("access denied", 403, "forbidden"),
        ("model 'x' not found, try pulling it first", 404, "modelnotfound"),
        ("The server is too busy", 503, "overloaded"),
        ("Request timed out", 504, "timeout"),
        ("the prompt is too long", 400, "contextlengthexceeded"),
        ("Bad Gateway", 502, "badgateway"),
        ("Internal Server Error", 500, "internalservererror"),
        ("Unrecognized request argument supplied: x", 400, "badrequest"),
        ("Welcome", 0, ""),
        ("at 4290 places", 0, ""),
        ("", 0, ""),
    ],
)
def test_text_has_the_status_of_its_words(text: str, status: int, name: str) -> None:
    assert error_names.in_text(text) == (status, name)


def test_text_of_an_error_begins_as_one() -> None:
    assert error_names.is_failure_text(" [ERROR] x")
    assert not error_names.is_failure_text("ping error")


def test_texts_of_an_error_object_are_found_up_to_a_depth() -> None:
    value: Any = {"message": "a", "detail": [{"msg": "b"}], "code": 7, "other": "c"}
    assert error_names.texts(value) == ["a", "b"]
    for _ in range(MAX_DEPTH):
        value = {"error": value}
    assert error_names.texts(value) == []
    assert error_names.texts([[[[[[["x"]]]]]]]) == []
