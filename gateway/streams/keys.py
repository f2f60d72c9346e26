"""Names of all Redis keys and channels.

All keys of one conversation share a hash tag `{pNN}`, so every script touches one cluster slot and one channel serves
the whole conversation. NN is one of a fixed number of partitions. The id of a response contains its partition, so the
id alone is enough to find its keys.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final
from zlib import crc32

PARTITIONS: Final = 16
"""Part of the storage format: a deployment that changes it cannot read the data that it stored before."""

GROUP: Final = "workers"
"""Consumer group of every job stream."""

WAITING: Final = "~waiting"
"""The consumer that holds jobs without a worker; `~waiting:<model>` holds those of a model. No host has such a name."""

_CONVERSATION: Final = re.compile(r"[A-Za-z0-9_.:~-]{1,128}", re.ASCII)
_RESPONSE: Final = re.compile(r"r(\d\d)[0-9a-z]{16}", re.ASCII)


def is_conversation(name: str) -> bool:
    """Return whether `name` is a valid conversation id: 1 to 128 letters, digits and `_ . : ~ -`."""
    return _CONVERSATION.fullmatch(name) is not None


def is_response(name: str) -> bool:
    """Return whether `name` has the form of a response id; a response with that id need not exist."""
    match = _RESPONSE.fullmatch(name)
    return match is not None and int(match[1]) < PARTITIONS


def is_response_of(response: str, conversation: str) -> bool:
    """Return whether both have the form of ids and share a partition; neither need exist."""
    return (
        is_response(response)
        and is_conversation(conversation)
        and partition_of_response(response) == partition_of(conversation)
    )


def partition_of(conversation: str) -> int:
    """Return the partition of a conversation: the same in every process and version."""
    return crc32(conversation.encode()) % PARTITIONS


def partition_of_response(response: str) -> int:
    """Return the partition of a response; `is_response(response)` must hold."""
    return int(response[1:3])


def response_id(conversation: str, random: str) -> str:
    """Return the id of a new response; `random` is 16 unpredictable lower-case letters or digits."""
    return f"r{partition_of(conversation):02d}{random}"


def answer_id(response: str) -> str:
    """Return the id that the answer has as a message of the history."""
    return f"m{response[1:]}"


def log(response: str) -> str:
    """Return the key of a stream: the log of one response."""
    return f"tw:{{p{partition_of_response(response):02d}}}:log:{response}"


def request(response: str) -> str:
    """Return the key of a string: the request of a response that has ended, kept when its log has expired."""
    return f"tw:{{p{partition_of_response(response):02d}}}:request:{response}"


def log_prefix(partition: int) -> str:
    """Return what precedes the response in the key of its log: scripts find the requests of queued jobs by it."""
    return f"tw:{{p{partition:02d}}}:log:"


def history(name: str) -> str:
    """Return the key of a stream: the history of a conversation."""
    # Renaming the stored key would lose the histories of a running deployment.
    return f"tw:{{p{partition_of(name):02d}}}:conversation:{name}"


def response_queue(name: str) -> str:
    """Return the key of a list: the open responses of a conversation, in order. Only the head has a job."""
    # The stored key says `turns`. Renaming it would strand the waiting responses of a running deployment.
    return f"tw:{{p{partition_of(name):02d}}}:turns:{name}"


def subject_digest(subject: str) -> str:
    """Return what stands for a subject in keys and entries: a token may name any text, of any length."""
    return _digest(subject)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def submission(name: str, subject: str, key: str) -> str:
    """Return the key of a hash: the result of one submit, by its subject's digest and idempotency key."""
    # Slashes, because names and keys may contain colons: with a colon two pairs could share one key.
    return f"tw:{{p{partition_of(name):02d}}}:submission:{name}/{subject}/{key}"


def instructions_id(instructions: str) -> str:
    """Return the id under which a conversation stores instructions: a digest, so the same ones are stored once."""
    return _digest(instructions)


def instructions(name: str, identifier: str) -> str:
    """Return the key of a string: instructions of a conversation."""
    return f"tw:{{p{partition_of(name):02d}}}:instructions:{name}/{identifier}"


def details_id(details: bytes) -> str:
    """Return the id under which a conversation stores the details of a request, as `instructions_id` does."""
    return sha256(details).hexdigest()[:32]


def details(name: str, identifier: str) -> str:
    """Return the key of a string: claims and metadata of requests of a conversation."""
    return f"tw:{{p{partition_of(name):02d}}}:details:{name}/{identifier}"


def stored_in(name: str) -> str:
    """Return the key of a counter: bytes that a conversation stored in the current day."""
    return f"tw:{{p{partition_of(name):02d}}}:day:c/{name}"


def stored_by(subject: str) -> str:
    """Return the key of a counter: bytes that a subject stored in the current day."""
    return f"tw:{{p{partition_of(subject):02d}}}:day:s/{subject}"


def open_of(subject: str) -> str:
    """Return the key of a sorted set: the open responses of a subject, each with the time at which it is forgotten."""
    return f"tw:{{p{partition_of(subject):02d}}}:open:s/{subject}"


def jobs(partition: int) -> str:
    """Return the key of a stream with a consumer group: one entry per response that waits for a worker or has one."""
    return f"tw:{{p{partition:02d}}}:jobs"


def open_responses(partition: int) -> str:
    """Return the key of a hash: each open response of a partition to `<conversation> <job>`.

    The job is empty while another response of the conversation is ahead.
    """
    return f"tw:{{p{partition:02d}}}:open"


def requeue_lock(partition: int) -> str:
    """Return the key of a string: the lock of the worker that last searched a partition for lost jobs."""
    return f"tw:{{p{partition:02d}}}:sweep"


def breaker(target: str) -> str:
    """Return the key of a string that exists while the circuit breaker of a target is open for all workers."""
    return f"tw:breaker:{_digest(target)}"


def feed(name: str) -> str:
    """Return a channel: every entry of a history and of its response logs, for gateways."""
    return f"tw:{{p{partition_of(name):02d}}}:feed:{name}"


def control(partition: int) -> str:
    """Return a channel: `job` and `end <response>`, for workers."""
    return f"tw:{{p{partition:02d}}}:control"


def presence() -> str:
    """Return the key of a set: names of gateways and workers that sent a heartbeat. Some may be expired."""
    return "tw:{p00}:presence"


def heartbeat(name: str) -> str:
    """Return the key of a string: the last record of a gateway or worker. Expires without heartbeats."""
    return f"tw:{{p00}}:presence:{name}"
