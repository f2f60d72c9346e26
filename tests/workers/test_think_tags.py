"""Reasoning between tags at the beginning of an answer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.providers.think_tags import MAX_BLANK, MAX_SPACES, TAGS, ThinkTags


def read(*pieces: str) -> tuple[str, str]:
    """Return the reasoning and the text."""
    tags = ThinkTags()
    parts = [part for piece in pieces for part in tags.feed(piece)] + tags.close()
    assert all(text for _, text in parts)
    return tuple("".join(text for kind, text in parts if kind == wanted) for wanted in ("reasoning", "text"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>Two.</think>\n\nFour.", "Two.", "Four."),
        ("<THINK>Two.</Think>Four.", "Two.", "Four."),
        ("<thinking>a</think>b</thinking>c", "a</think>b", "c"),
        ("<thought></thought>x", "", "x"),
        ("<reasoning>a < b</reasoning> x", "a < b", "x"),
        ("<think>İ</think>x", "İ", "x"),
        ("<think>never closed", "never closed", ""),
        ("<think>half</th", "half</th", ""),
        ("<think>a</think> \n", "a", ""),
        ("<thin", "", "<thin"),
        ("<thinker>x</thinker>", "", "<thinker>x</thinker>"),
        ("Use <think>x</think>.", "", "Use <think>x</think>."),
        ("`<think>`", "", "`<think>`"),
        ("</think>x", "", "</think>x"),
        ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("", "", ""),
        ("[THINK]Two.[/THINK]Four.", "Two.", "Four."),
        ("◁think▷Two.◁/think▷Four.", "Two.", "Four."),
        ("<|begin_of_thought|>Two.<|end_of_thought|>\n\nFour.", "Two.", "Four."),
        ("<seed:think>Two.</seed:think>Four.", "Two.", "Four."),
        ("\n<think >Two.</think\n>Four.", "Two.", "Four."),
        ("<think" + " " * MAX_SPACES + ">a</think>b", "a", "b"),
        ("<think" + " " * (MAX_SPACES + 1) + ">a", "", "<think" + " " * (MAX_SPACES + 1) + ">a"),
        ("<think>a</think" + " " * MAX_SPACES + ">b", "a", "b"),
        ("<think>a</think" + " " * (MAX_SPACES + 1) + ">b", "a</think" + " " * (MAX_SPACES + 1) + ">b", ""),
        ("<think>a</</think>b", "a</", "b"),
        ("[think", "", "[think"),
        ("[1] x", "", "[1] x"),
        ("<think>a[/THINK]b</think>c", "a[/THINK]b", "c"),
        (" " * MAX_BLANK + "<think>a</think>b", "a", "b"),
        (" " * (MAX_BLANK + 1) + "<think>a</think>b", "", " " * (MAX_BLANK + 1) + "<think>a</think>b"),
    ],
)
def test_only_a_tag_at_the_beginning_is_reasoning(text: str, reasoning: str, answer: str) -> None:
    assert read(text) == (reasoning, answer)
    assert read(*text) == (reasoning, answer)


@given(
    st.lists(
        st.sampled_from(
            ["<", ">", "/", "think", "thinking", "a", " ", "\n", "<think>", "</think>", "[THINK]", "[/THINK]"]
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_split_makes_no_difference(parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert read(*(text[start:end] for start, end in pairwise(bounds))) == read(text)


@given(st.text("<>thinkoug/ ", max_size=20))
def test_only_the_beginning_of_a_tag_is_delayed(text: str) -> None:
    tags = ThinkTags()
    for number, character in enumerate(text):
        tags.feed(character)
        if tags.over:
            return
        begun = text[: number + 1].lstrip().lower()
        assert any(tag.startswith(begun) or begun.startswith(tag[:-1]) for tag in TAGS)


def test_text_after_the_decision_passes() -> None:
    tags = ThinkTags()
    assert tags.feed("Hi") == [("text", "Hi")]
    assert tags.over
    assert tags.feed("<think>") == [("text", "<think>")]
