"""Targets of model aliases."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.resources.messages.messages import DEPRECATED_MODELS
from anthropic.types import Model
from openai.types import ChatModel

from gateway.streams import targets
from gateway.streams.targets import MAX_TARGETS, Target, Timeouts, parse_models, parse_targets, parse_timeouts


def test_alias_is_a_name_an_object_or_a_list() -> None:
    parsed = parse_models(
        {
            "default": "demo",
            "one": {"target": "anthropic/a", "thinking": 2048, "prompt_caching": True, "key": "@/run/secrets/key"},
            "two": ["openai/b", {"target": "openai/c", "base_url": "http://127.0.0.1:1234/v1", "temperature": None}],
        }
    )
    assert parsed == {
        "default": (Target("demo"),),
        "one": (Target("anthropic", "a", thinking=2048, prompt_caching=True, key="@/run/secrets/key"),),
        "two": (Target("openai", "b"), Target("openai", "c", base_url="http://127.0.0.1:1234/v1")),
    }
    assert [each.name for each in parsed["two"]] == ["openai/b", "openai/c"]
    assert parsed["default"][0].name == "demo"


def test_every_field_of_a_target_is_read() -> None:
    given: dict[str, Any] = {
        "base_url": "https://host/v1",
        "key": "MY_KEY",
        "prefill": True,
        "temperature": 0.5,
        "effort": "low",
        "max_tokens": 100,
        "extra_body": {"top_p": 1},
        "max_tokens_name": "max_tokens",
        "stream_options": False,
    }
    assert parse_targets("a", {"target": "openai/b", **given}) == (Target("openai", "b", **given),)
    for thinking in (True, False, 1024):
        (target,) = parse_targets("a", {"target": "anthropic/b", "thinking": thinking})
        assert target.thinking is thinking


@pytest.mark.parametrize("value", [None, [], {}, "demo"])
def test_models_that_are_no_object_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON object of aliases"):
        parse_models(value)


def test_alias_may_have_timeouts_beside_its_targets() -> None:
    models = {
        "default": {
            "targets": ["demo", "openai/a"],
            "first_timeout": "20s",
            "answer_timeout": 600,
            "idle_timeout": None,
        },
        "fast": {"targets": {"target": "openai/b", "effort": "low"}, "queue_timeout": "1.5m"},
        "plain": "demo",
    }
    assert parse_timeouts(models) == {
        "default": Timeouts(first_timeout=20.0, answer_timeout=600),
        "fast": Timeouts(queue_timeout=90.0),
    }
    assert parse_models(models) == {
        "default": (Target("demo"), Target("openai", "a")),
        "fast": (Target("openai", "b", effort="low"),),
        "plain": (Target("demo"),),
    }


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("first_timeout", 0, "is a duration such as 30s"),
        ("first_timeout", "-1s", "is a duration"),
        ("idle_timeout", "soon", "is a duration"),
        ("idle_timeout", True, "is a duration"),
        ("answer_timeout", "31d", "is a duration such as 30s, at most 30d"),
        ("timeout", 5, "is not a field beside targets; the fields are queue_timeout, first_timeout"),
    ],
)
def test_wrong_timeout_names_alias_and_field(field: str, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"alias 'mine': '{field}' {problem}"):
        parse_models({"default": "demo", "mine": {"targets": "demo", field: value}})


def test_models_need_the_alias_default() -> None:
    with pytest.raises(ValueError, match=r'no alias "default".*"openai/a"'):
        parse_models({"fast": "openai/a"})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (1, 'write "provider/model", or an object'),
        ("gemini/x", "'gemini/x' is not a target"),
        ("openai", "names no model: write openai/MODEL"),
        ("python/", "names no model: write python/MODEL"),
        ({}, '"target" is missing'),
        ({"target": 1}, '"target" is missing'),
        ({"target": "nothing/x"}, "is not a target"),
        ({"target": "demo", "key": "A"}, "'key' applies to openai and anthropic only, not to 'demo'"),
        ({"target": "demo", "first_timeout": "3s"}, '\'first_timeout\' belongs beside "targets": {"targets": ..., '),
        ({"target": "openai/a", "temprature": 1}, "'temprature' is not a field of a target; the fields are base_url"),
        ({"target": "openai/a", "thinking": 2000}, "'thinking' applies to anthropic only"),
        ({"target": "anthropic/a", "stream_options": True}, "'stream_options' applies to openai only"),
        ({"target": "openai/a", "base_url": "localhost:1"}, "'base_url' is an address"),
        ({"target": "openai/a", "base_url": "http://"}, "'base_url' is an address"),
        ({"target": "openai/a", "base_url": "http://a:x"}, "'base_url' is an address"),
        ({"target": "openai/a", "base_url": 1}, "'base_url' is an address"),
        ({"target": "openai/a", "base_url": "http://me:pw@host/v1"}, "'base_url' contains a user or password"),
        ({"target": "openai/a", "key": "sk-live-1"}, "'key' is @FILE or the name of an environment variable"),
        ({"target": "openai/a", "key": "@"}, "'key' is @FILE"),
        ({"target": "openai/a", "key": 1}, "'key' is @FILE"),
        ({"target": "openai/a", "prefill": 1}, "'prefill' is true or false"),
        ({"target": "openai/a", "temperature": 3}, "'temperature' is a number from 0 to 2"),
        ({"target": "openai/a", "temperature": True}, "'temperature' is a number"),
        ({"target": "openai/a", "temperature": float("nan")}, "'temperature' is a number"),
        ({"target": "openai/a", "effort": "most"}, "'effort' is one of none"),
        ({"target": "anthropic/a", "thinking": 1}, "'thinking' is true, false or a number of tokens from 1024"),
        ({"target": "openai/a", "max_tokens": 0}, "'max_tokens' is a whole number from 1"),
        ({"target": "openai/a", "max_tokens": True}, "'max_tokens' is a whole number"),
        ({"target": "openai/a", "extra_body": []}, "'extra_body' is an object"),
        ({"target": "openai/a", "extra_body": {"stream": False}}, "'extra_body' cannot contain 'stream'"),
        ({"target": "openai/a", "max_tokens_name": "limit"}, "'max_tokens_name' is max_tokens or"),
        ([], f"a list has 1 to {MAX_TARGETS} targets, not 0"),
        (["demo"] * (MAX_TARGETS + 1), f"not {MAX_TARGETS + 1}"),
    ],
)
def test_wrong_target_names_alias_and_field(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="alias 'mine'") as error:
        parse_models({"default": "demo", "mine": value})
    assert problem in str(error.value)
    assert "sk-live" not in str(error.value)
    assert "pw" not in str(error.value)


def test_wrong_target_of_a_list_is_counted() -> None:
    with pytest.raises(ValueError, match="alias 'default', target 2: "):
        parse_models({"default": ["demo", "dem"]})


def test_default_models_are_current_in_the_sdks() -> None:
    """Fails with an SDK whose maker retires one; then choose another, and set the date."""
    assert targets.DEFAULT_MODELS["anthropic"] not in DEPRECATED_MODELS
    assert targets.DEFAULT_MODELS["anthropic"] in str(Model)
    assert targets.DEFAULT_MODELS["openai"] in str(ChatModel)
