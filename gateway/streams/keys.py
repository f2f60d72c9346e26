"""Every Redis key and channel, spelled once.

All keys of one conversation share a hash tag `{pNN}`, so that every script touches one slot and one publish channel
serves all of a conversation. NN is one of a fixed number of partitions, and a response's id names its partition: who
holds only the id of a response finds its keys.
"""

from __future__ import annotations

import re
from typing import Final
from zlib import crc32

PARTITIONS: Final = 16
"""Part of the stored data's shape: a deployment that changes it can not read what it stored before."""

GROUP: Final = "workers"
"""The consumer group of every job stream."""

_CONVERSATION: Final = re.compile(r"[A-Za-z0-9_.:~-]{1,128}", re.ASCII)
_RESPONSE: Final = re.compile(r"r(\d\d)[0-9a-z]{16}", re.ASCII)


def is_conversation(name: str) -> bool:
    """Tell whether `name` may be a conversation's id: 1 to 128 letters, digits and `_ . : ~ -`."""
    return _CONVERSATION.fullmatch(name) is not None


def is_response(name: str) -> bool:
    """Tell whether `name` has the form of a response's id; it says nothing about whether there is one."""
    match = _RESPONSE.fullmatch(name)
    return match is not None and int(match[1]) < PARTITIONS


def partition_of(conversation: str) -> int:
    """The partition of a conversation: the same in every process and for ever."""
    return crc32(conversation.encode()) % PARTITIONS


def partition_of_response(response: str) -> int:
    """The partition that a response's id names; the id has passed `is_response`."""
    return int(response[1:3])


def response_id(conversation: str, random: str) -> str:
    """The id of a new response of `conversation`; `random` is 16 lower-case letters or digits that nobody can guess."""
    return f"r{partition_of(conversation):02d}{random}"


def answer_id(response: str) -> str:
    """The id of the message that a response becomes in the history."""
    return f"m{response[1:]}"


def log(response: str) -> str:
    """Stream: the log of one response."""
    return f"tw:{{p{partition_of_response(response):02d}}}:log:{response}"


def conversation(name: str) -> str:
    """Stream: what happened in one conversation."""
    return f"tw:{{p{partition_of(name):02d}}}:conversation:{name}"


def response_queue(name: str) -> str:
    """List: the open responses of a conversation in the order in which they are answered; only the head has a job."""
    return f"tw:{{p{partition_of(name):02d}}}:turns:{name}"


def submission(name: str, key: str) -> str:
    """Hash: what became of one submit key of a conversation."""
    # A slash, because a conversation may have a colon in its name, and a submit key too.
    return f"tw:{{p{partition_of(name):02d}}}:submission:{name}/{key}"


def jobs(partition: int) -> str:
    """Stream with a consumer group: the responses of a partition that wait for a worker or have one."""
    return f"tw:{{p{partition:02d}}}:jobs"


def open_responses(partition: int) -> str:
    """Hash: each response of a partition that has no end, to `<conversation> <job>`; no job while others are ahead."""
    return f"tw:{{p{partition:02d}}}:open"


def requeue_lock(partition: int) -> str:
    """String: held by the worker that last looked for lost jobs of a partition."""
    return f"tw:{{p{partition:02d}}}:sweep"


def feed(name: str) -> str:
    """Channel: every entry of a conversation and of its responses, for gateways."""
    return f"tw:{{p{partition_of(name):02d}}}:feed:{name}"


def control(partition: int) -> str:
    """Channel: `job`, and `end <response>`, for workers."""
    return f"tw:{{p{partition:02d}}}:control"


def presence() -> str:
    """Set: the names of the gateways and workers that gave a sign of life, and may be gone."""
    return "tw:{p00}:presence"


def heartbeat(name: str) -> str:
    """String: what a gateway or a worker says of itself; gone when it has said nothing for a while."""
    return f"tw:{{p00}}:presence:{name}"
