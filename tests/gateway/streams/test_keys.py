"""Keys: one slot per conversation, and no collisions."""

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


def hash_tag_of(key: str) -> str:
    """Return the hash tag, which Redis Cluster hashes."""
    match = re.search(r"\{(.+?)\}", key)
    assert match is not None
    return match[1]


@given(st.text(max_size=3) | CONVERSATIONS | st.text(NAMED, max_size=140))
def test_conversation_ids_have_1_to_128_allowed_characters(name: str) -> None:
    assert keys.is_conversation(name) is (1 <= len(name) <= 128 and set(name) <= set(NAMED))


@pytest.mark.parametrize("name", ["", "a b", "a\n", "é", "a/b", "a{b}", "a*", "\u0661", "x" * 129])
def test_invalid_conversation_ids_are_rejected(name: str) -> None:
    assert not keys.is_conversation(name)


@given(CONVERSATIONS, RANDOM)
def test_response_id_contains_the_partition(name: str, random: str) -> None:
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
def test_invalid_response_ids_are_rejected(name: str) -> None:
    assert not keys.is_response(name)


@given(st.text())
def test_response_id_check_accepts_any_text(name: str) -> None:
    assert keys.is_response(name) is (re.fullmatch(r"r(0[0-9]|1[0-5])[0-9a-z]{16}", name) is not None)


def test_partition_of_a_conversation_is_stable() -> None:
    """Stored data is found by it: every version must compute the same."""
    assert [keys.partition_of(name) for name in ("c1", "support-42", "a:b", "~")] == [1, 3, 8, 6]


@given(CONVERSATIONS, RANDOM, SUBMIT_KEYS)
def test_keys_of_a_conversation_share_a_slot(name: str, random: str, submit_key: str) -> None:
    response = keys.response_id(name, random)
    partition = keys.partition_of(name)
    all_keys = [
        keys.log(response),
        keys.history(name),
        keys.response_queue(name),
        keys.submission(name, keys.subject_digest("u"), submit_key),
        keys.instructions(name, keys.instructions_id("Be brief")),
        keys.details(name, keys.details_id(b"{}")),
        keys.stored_in(name),
        keys.jobs(partition),
        keys.open_responses(partition),
        keys.requeue_lock(partition),
        keys.feed(name),
        keys.control(partition),
    ]
    assert {hash_tag_of(key) for key in all_keys} == {f"p{partition:02d}"}
    assert len(set(all_keys)) == len(all_keys)


@given(st.text("a:", min_size=1, max_size=3), st.text("a:", min_size=1, max_size=3), SUBMIT_KEYS, SUBMIT_KEYS)
def test_submissions_do_not_share_a_key(one: str, other: str, key: str, other_key: str) -> None:
    if (one, key) != (other, other_key):
        assert keys.submission(one, "", key) != keys.submission(other, "", other_key)


def test_presence_keys_share_a_slot() -> None:
    presence_keys = [keys.presence(), keys.heartbeat("gateway:g1"), keys.heartbeat("worker:w1")]
    assert {hash_tag_of(key) for key in presence_keys} == {"p00"}
    assert len(set(presence_keys)) == 3


def test_colons_in_names_cause_no_key_collision() -> None:
    """Conversation `a`, key `b:c` and conversation `a:b`, key `c` may be in one partition."""
    assert keys.submission("a", "", "b:c").partition("}")[2] != keys.submission("a:b", "", "c").partition("}")[2]


@given(st.text())
def test_keys_of_a_subject_share_a_slot_and_hide_its_text(subject: str) -> None:
    digest = keys.subject_digest(subject)
    assert re.fullmatch(r"[0-9a-f]{32}", digest)
    assert hash_tag_of(keys.stored_by(digest)) == hash_tag_of(keys.open_of(digest))


def test_subjects_and_conversations_share_no_key() -> None:
    digest = keys.subject_digest("u")
    assert keys.stored_by(digest) != keys.stored_in(digest)
    assert keys.subject_digest("\ud800") != keys.subject_digest("?")
    assert keys.submission("c", digest, "k") != keys.submission("c", keys.subject_digest("v"), "k")


@given(CONVERSATIONS, CONVERSATIONS, RANDOM, RANDOM)
def test_responses_and_conversations_do_not_share_keys(one: str, other: str, random: str, another: str) -> None:
    response, second = keys.response_id(one, random), keys.response_id(other, another)
    assert (keys.log(response) == keys.log(second)) is (response == second)
    assert (keys.answer_id(response) == keys.answer_id(second)) is (response == second)
    for key_of in (keys.history, keys.response_queue, keys.feed):
        assert (key_of(one) == key_of(other)) is (one == other)


@pytest.mark.parametrize(
    ("response", "conversation", "valid"),
    [
        (keys.response_id("c1", "a" * 16), "c1", True),
        (keys.response_id("c1", "a" * 16), "c3", False),
        (keys.response_id("c1", "a" * 16), "", False),
        ("r99aaaaaaaaaaaaaaaa", "c1", False),
        ("", "c1", False),
    ],
)
def test_response_belongs_to_a_conversation_of_its_partition(response: str, conversation: str, valid: bool) -> None:
    assert keys.is_response_of(response, conversation) is valid


def test_breakers_of_targets_have_different_keys() -> None:
    names = ["openai/m @ a", "openai/m @ b", "anthropic/m @ a", "x" * 10_000]
    assert len({keys.breaker(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"tw:breaker:[0-9a-f]{32}", keys.breaker(name)) for name in names)


def test_keys_of_a_response_share_its_slot() -> None:
    response = keys.response_id("c1", "0" * 16)
    partition = keys.partition_of("c1")
    assert keys.log(response) == f"{keys.log_prefix(partition)}{response}"
    assert keys.request(response).startswith(f"tw:{{p{partition:02d}}}:request:")
