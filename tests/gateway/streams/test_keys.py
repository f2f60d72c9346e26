"""Keys: one slot for all keys of a conversation, and never one key for two things."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.streams import keys

NAMED = string.ascii_letters + string.digits + "_.:~-"
CONVERSATIONS = st.text(NAMED, min_size=1, max_size=128)
RANDOM = st.text(string.ascii_lowercase + string.digits, min_size=16, max_size=16)
SUBMIT_KEYS = st.text([chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=20)


def slot_of(key: str) -> str:
    """What a Redis Cluster hashes: what stands between the first brace and the next closing one."""
    match = re.search(r"\{(.+?)\}", key)
    assert match is not None
    return match[1]


@given(st.text(max_size=3) | CONVERSATIONS | st.text(NAMED, max_size=140))
def test_a_conversation_has_1_to_128_letters_digits_and_a_few_signs(name: str) -> None:
    assert keys.is_conversation(name) is (1 <= len(name) <= 128 and set(name) <= set(NAMED))


@pytest.mark.parametrize("name", ["", "a b", "a\n", "é", "a/b", "a{b}", "a*", "\u0661", "x" * 129])
def test_no_conversation_has_such_a_name(name: str) -> None:
    assert not keys.is_conversation(name)


@given(CONVERSATIONS, RANDOM)
def test_the_id_of_a_response_names_the_partition_of_its_conversation(name: str, random: str) -> None:
    response = keys.response_id(name, random)
    assert keys.is_response(response)
    assert keys.partition_of_response(response) == keys.partition_of(name) < keys.PARTITIONS


@pytest.mark.parametrize(
    "name",
    [
        "",
        "r",
        "r00",
        "r000123456789abcde",
        "r000123456789abcdef0",
        "r000123456789ABCDEF",
        "r160123456789abcdef",
        "r990123456789abcdef",
        "r\u0660\u06600123456789abcdef",
        "r000123456789abcdef\n",
        "m000123456789abcdef",
    ],
)
def test_no_response_has_such_an_id(name: str) -> None:
    assert not keys.is_response(name)


@given(st.text())
def test_any_text_can_be_asked_whether_it_is_a_response(name: str) -> None:
    assert keys.is_response(name) is (re.fullmatch(r"r(0[0-9]|1[0-5])[0-9a-z]{16}", name) is not None)


def test_the_partition_of_a_conversation_never_changes() -> None:
    """Stored data is found by it: a gateway of another version has to compute the same."""
    assert [keys.partition_of(name) for name in ("c1", "support-42", "a:b", "~")] == [1, 3, 8, 6]


@given(CONVERSATIONS, RANDOM, SUBMIT_KEYS)
def test_all_keys_of_a_conversation_share_a_slot(name: str, random: str, submit_key: str) -> None:
    response = keys.response_id(name, random)
    partition = keys.partition_of(name)
    all_keys = [
        keys.log(response),
        keys.conversation(name),
        keys.response_queue(name),
        keys.submission(name, submit_key),
        keys.jobs(partition),
        keys.open_responses(partition),
        keys.requeue_lock(partition),
        keys.feed(name),
        keys.control(partition),
    ]
    assert {slot_of(key) for key in all_keys} == {f"p{partition:02d}"}
    assert len(set(all_keys)) == len(all_keys)


@given(st.text("a:", min_size=1, max_size=3), st.text("a:", min_size=1, max_size=3), SUBMIT_KEYS, SUBMIT_KEYS)
def test_two_submissions_never_share_a_key(one: str, other: str, key: str, other_key: str) -> None:
    if (one, key) != (other, other_key):
        assert keys.submission(one, key) != keys.submission(other, other_key)


def test_those_who_are_there_are_found_with_one_command() -> None:
    signs = [keys.presence(), keys.heartbeat("gateway:g1"), keys.heartbeat("worker:w1")]
    assert {slot_of(key) for key in signs} == {"p00"}
    assert len(set(signs)) == 3


def test_a_colon_in_a_name_leads_to_no_other_submission() -> None:
    """Conversation `a`, key `b:c` and conversation `a:b`, key `c`, which may lie in one partition."""
    assert keys.submission("a", "b:c").partition("}")[2] != keys.submission("a:b", "c").partition("}")[2]


@given(CONVERSATIONS, CONVERSATIONS, RANDOM, RANDOM)
def test_two_responses_or_conversations_never_share_a_key(one: str, other: str, random: str, another: str) -> None:
    response, second = keys.response_id(one, random), keys.response_id(other, another)
    assert (keys.log(response) == keys.log(second)) is (response == second)
    assert (keys.answer_id(response) == keys.answer_id(second)) is (response == second)
    for spell in (keys.conversation, keys.response_queue, keys.feed):
        assert (spell(one) == spell(other)) is (one == other)
