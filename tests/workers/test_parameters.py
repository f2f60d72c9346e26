"""Optional parameters of requests, and what follows their refusal."""

from __future__ import annotations

from typing import Any

import pytest

from workers.providers import parameters
from workers.providers.parameters import MAX_REFUSALS, Attempt, Option, Parameters, option


def openai(**given: Any) -> list[Option]:
    defaults: dict[str, Any] = {"limit": 9, "limit_name": "max_tokens", "stream_options": True}
    return parameters.openai(**{**defaults, "temperature": 0.5, "effort": "low", **given})


def attempt(options: list[Option] | None = None, known: Parameters | None = None) -> Attempt:
    return (known or Parameters("openai/m")).request(openai() if options is None else options)


ALL = {
    "stream_options": {"include_usage": True},
    "max_tokens": 9,
    "temperature": 0.5,
    "reasoning_effort": "low",
}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in ALL.items() if name not in names}


def test_parameters_are_sent_as_they_are_set() -> None:
    assert attempt().fields == ALL
    assert attempt(openai(limit_name="max_completion_tokens")).fields == without("max_tokens") | {
        "max_completion_tokens": 9
    }
    assert attempt(openai(limit=None, stream_options=False, temperature=None, effort=None)).fields == {}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"message": "Unknown parameter: stream_options", "param": "stream_options"}, "stream_options"),
        ("extra field: include_usage", "stream_options"),
        ([{"error": {"message": "temperature does not work with this model"}}], "temperature"),
        ({"detail": [{"loc": ["body", "reasoning_effort"], "type": "extra_forbidden"}]}, "reasoning_effort"),
    ],
)
@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_named_parameter_is_left_out(body: Any, name: str, status: int) -> None:
    asked = attempt()
    assert asked.refused(status, body)
    assert asked.fields == without(name)
    assert asked.accepted() == [name]
    assert asked.accepted() == []


@pytest.mark.parametrize(
    "body", ["use max_completion_tokens", {"param": "max_tokens"}, "'max_tokens' is not supported"]
)
def test_limit_gets_its_other_name(body: Any) -> None:
    known = Parameters("openai/m")
    asked = attempt(known=known)
    assert asked.target == "openai/m"
    assert asked.refused(400, body)
    assert asked.fields == without("max_tokens") | {"max_completion_tokens": 9}
    assert asked.accepted() == ["max_tokens"]
    assert attempt(known=known).fields == asked.fields


def test_request_without_its_limit_is_not_remembered() -> None:
    known = Parameters("openai/m")
    asked = attempt(known=known)
    assert asked.refused(400, "max_tokens")
    assert asked.refused(400, "max_completion_tokens")
    assert asked.fields == without("max_tokens")
    asked.accepted()
    assert attempt(known=known).fields == ALL


def test_reply_that_names_none_is_followed_by_one_request_without_optional_ones() -> None:
    known = Parameters("openai/m")
    asked = attempt(known=known)
    assert asked.refused(422, "extra input")
    assert asked.fields == {"max_completion_tokens": 9}
    assert not asked.refused(422, "extra input")
    # Nothing was accepted, so the parameters were not the cause.
    assert attempt(known=known).fields == ALL
    again = attempt(known=known)
    assert again.refused(400, None)
    again.accepted()
    assert attempt(known=known).fields == {"max_completion_tokens": 9}


def test_value_of_a_client_changes_nothing_for_others() -> None:
    known = Parameters("openai/m")
    asked = attempt(openai(limit_of_client=True), known)
    assert asked.refused(400, "max_tokens is too large: 9")
    assert asked.fields == without("max_tokens") | {"max_completion_tokens": 9}
    assert asked.accepted() == ["max_tokens"]
    assert attempt(openai(limit_of_client=True), known).fields == ALL


def test_name_of_a_clients_limit_is_remembered_where_the_server_gives_it() -> None:
    known = Parameters("openai/m")
    asked = attempt(openai(limit_of_client=True), known)
    assert asked.refused(400, "max_tokens is not supported: use max_completion_tokens")
    assert asked.accepted() == ["max_tokens"]
    assert attempt(openai(limit_of_client=True), known).fields == without("max_tokens") | {"max_completion_tokens": 9}


@pytest.mark.parametrize("accepts_limit", [True, False])
def test_value_of_a_client_is_left_out_last(*, accepts_limit: bool) -> None:
    known = Parameters("openai/m")
    asked = attempt(openai(limit_of_client=True), known)
    assert asked.refused(400, None)
    assert asked.fields == {"max_tokens": 9}
    if not accepts_limit:
        assert asked.refused(400, None)
        assert asked.fields == {"max_completion_tokens": 9}
        assert not asked.refused(400, None)
    asked.accepted()
    # Where the client's value was the cause, the operator's parameters are sent again.
    assert attempt(openai(limit_of_client=True), known).fields == ({"max_tokens": 9} if accepts_limit else ALL)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, "stream_options"),
        (429, "max_tokens"),
        (404, {"code": "model_not_found"}),
        (404, "no such page"),
        (400, {"error": {"code": "context_length_exceeded"}}),
        (500, None),
    ],
)
def test_other_refusals_are_final(status: int, body: Any) -> None:
    assert not attempt().refused(status, body)


def test_request_without_parameters_is_not_repeated() -> None:
    assert not attempt([Option("extra_body", ({"top_k": 1},))]).refused(400, "top_k")
    assert not attempt([]).refused(400, "stream_options")


def test_refusals_of_one_request_are_limited() -> None:
    many = [option(f"p{number}", {f"p{number}": 1}) for number in range(MAX_REFUSALS + 1)]
    asked = attempt(many)
    for number in range(MAX_REFUSALS):
        assert asked.refused(400, f"p{number}")
    assert not asked.refused(400, f"p{MAX_REFUSALS}")


def test_first_named_parameter_is_the_refused_one() -> None:
    asked = attempt(parameters.anthropic(limit=9, thinking=2048, temperature=None, effort="low", prompt_caching=True))
    assert asked.fields["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert asked.refused(400, '"thinking.type.enabled" is not supported: use "thinking.type.adaptive" and "effort"')
    assert asked.fields == {
        "max_tokens": 9,
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "low"},
        "cache_control": {"type": "ephemeral"},
    }
    assert asked.refused(400, "thinking.adaptive.display: not permitted")
    assert asked.fields["thinking"] == {"type": "adaptive"}
    assert asked.refused(400, "thinking is not supported")
    assert asked.refused(400, "cache_control: not permitted")
    assert asked.fields == {"max_tokens": 9, "output_config": {"effort": "low"}}
    assert asked.accepted() == ["cache_control", "thinking"]


def test_thinking_is_switched_on_and_off() -> None:
    def thinking(value: bool) -> list[Any]:
        _, found = parameters.anthropic(limit=9, thinking=value, temperature=None, effort=None, prompt_caching=False)
        return [variant.get("thinking", {}).get("type") for variant in found.variants]

    assert thinking(True) == ["adaptive", "adaptive", None]
    assert thinking(False) == ["disabled", "between_tools", None]
    assert parameters.anthropic(limit=9, thinking=None, temperature=0.1, effort=None, prompt_caching=False) == [
        Option("max_tokens", ({"max_tokens": 9},), limit=9),
        option("temperature", {"temperature": 0.1}),
    ]


def test_remembered_variant_of_a_shorter_list_is_its_last() -> None:
    known = Parameters("openai/m")
    known.remember("thinking", 3)
    assert known.request([option("thinking", {"thinking": 1})]).fields == {}


LARGEST = "max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens for m-20240307"


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        (LARGEST, 4096),
        ("max_tokens is too large: 16384. This model supports at most 8,192 completion tokens", 8192),
        ("Range of max_tokens should be [1, 8192]", 8192),
        ("max_tokens must be between 1 and 8192", 8192),
        ("max_tokens must be >= 1 and <= 8192, not 16384", 8192),
        (
            "`max_tokens` must be less than or equal to `8192`, the maximum value is less than the `context_window`",
            8192,
        ),
        (
            {"loc": ["max_tokens"], "msg": "Input should be less than or equal to 8192", "input": 16384, "code": 400},
            8192,
        ),
        ("Maximum: 8192 for max_tokens", 8192),
        ("max_tokens has a limit: 8192", 8192),
    ],
)
def test_limit_above_that_of_the_model_is_lowered_and_remembered(message: Any, limit: int) -> None:
    known = Parameters("anthropic/m")
    options = parameters.anthropic(limit=16_384, thinking=None, temperature=None, effort=None, prompt_caching=False)
    asked = known.request(options)
    assert asked.refused(400, {"error": {"type": "invalid_request_error", "message": message}})
    assert asked.fields == {"max_tokens": limit}
    assert asked.accepted() == ["max_tokens"]
    assert known.request(options).fields == {"max_tokens": limit}
    smaller = parameters.anthropic(limit=7, thinking=None, temperature=None, effort=None, prompt_caching=False)
    assert known.request(smaller).fields == {"max_tokens": 7}


@pytest.mark.parametrize(
    ("message", "rest"),
    [
        ("input length and `max_tokens` exceed context limit: 190000 + 16384 > 200000, decrease max_tokens", 10_000),
        ("max_tokens is too large: 16384. (16384 > 8192 - 1000)", 7192),
    ],
)
def test_limit_above_the_rest_of_the_context_is_lowered_for_one_request(message: str, rest: int) -> None:
    known = Parameters("openai/m")
    asked = known.request(openai(limit=16_384))
    assert asked.refused(400, message)
    assert asked.fields["max_tokens"] == rest
    asked.accepted()
    assert known.request(openai(limit=16_384)).fields["max_tokens"] == 16_384


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens: 200001 + 16384 > 200000",
        "max_tokens: maximum context length is 8192 tokens",
        "max_tokens is too large: 16384",
        "{'message': 'max_tokens is refused', 'code': 400}",
    ],
)
def test_reply_without_a_smaller_limit_lowers_none(message: str) -> None:
    options = parameters.anthropic(limit=16_384, thinking=None, temperature=None, effort=None, prompt_caching=False)
    assert not Parameters("anthropic/m").request(options).refused(400, message)
    asked = Parameters("openai/m").request(openai(limit=16_384))
    assert asked.refused(400, message)
    assert asked.fields["max_completion_tokens"] == 16_384


def test_lower_limit_of_a_client_is_not_remembered() -> None:
    known = Parameters("openai/m")
    asked = known.request(openai(limit=16_384, limit_of_client=True))
    assert asked.refused(400, LARGEST)
    assert asked.fields["max_tokens"] == 4096
    assert asked.accepted() == ["max_tokens"]
    assert known.request(openai(limit=16_384)).fields["max_tokens"] == 16_384


def test_limit_that_was_left_out_is_not_lowered() -> None:
    asked = attempt(openai(limit=16_384))
    assert asked.refused(400, "max_tokens")
    assert asked.refused(400, "max_tokens")
    assert not asked.refused(404, LARGEST)


def test_reply_that_is_nested_deeply_names_nothing() -> None:
    body: Any = "stream_options"
    for _ in range(50_000):
        body = [body]
    assert not attempt().refused(404, body)
