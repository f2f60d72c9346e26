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
    asked = attempt(parameters.anthropic(thinking=2048, temperature=None, effort="low", prompt_caching=True))
    assert asked.fields["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert asked.refused(400, '"thinking.type.enabled" is not supported: use "thinking.type.adaptive" and "effort"')
    assert asked.fields == {
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "low"},
        "cache_control": {"type": "ephemeral"},
    }
    assert asked.refused(400, "thinking.adaptive.display: not permitted")
    assert asked.fields["thinking"] == {"type": "adaptive"}
    assert asked.refused(400, "thinking is not supported")
    assert asked.refused(400, "cache_control: not permitted")
    assert asked.fields == {"output_config": {"effort": "low"}}
    assert asked.accepted() == ["cache_control", "thinking"]


def test_thinking_is_switched_on_and_off() -> None:
    def thinking(value: bool) -> list[Any]:
        (found,) = parameters.anthropic(thinking=value, temperature=None, effort=None, prompt_caching=False)
        return [variant.get("thinking", {}).get("type") for variant in found.variants]

    assert thinking(True) == ["adaptive", "adaptive", None]
    assert thinking(False) == ["disabled", "between_tools", None]
    assert parameters.anthropic(thinking=None, temperature=0.1, effort=None, prompt_caching=False) == [
        option("temperature", {"temperature": 0.1})
    ]


def test_remembered_variant_of_a_shorter_list_is_its_last() -> None:
    known = Parameters("openai/m")
    known.remember("thinking", 3)
    assert known.request([option("thinking", {"thinking": 1})]).fields == {}
