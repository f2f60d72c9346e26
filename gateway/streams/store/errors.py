"""Errors of the store, and which of them are transient."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

_TRANSIENT: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
    OSError,
)
_TRANSIENT_CODES: Final = re.compile(r"(?:^|-)(?:READONLY|NOREPLICAS|MISCONF|MASTERDOWN|TRYAGAIN|BUSY) ")
"""Errors without a class in redis-py, and those that Redis 6.2 wraps in a script: `ERR ...: 1: -READONLY ...`."""


class StoreError(Exception):
    """The store cannot be used; the message says what to do."""


class NoPrimaryError(RedisConnectionError):
    """No reachable sentinel or node knows a primary."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time. The same call may succeed later and is safe to repeat."""


class StoreFullError(StoreError):
    """The store rejects writes because it is out of memory. Reads still work."""


def is_full(error: Exception) -> bool:
    """Return whether the server reports that it is out of memory."""
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "-OOM " in str(error))


def is_transient(error: Exception) -> bool:
    """Return whether the same command may soon succeed: no server answers, or one that may not write."""
    return isinstance(error, _TRANSIENT) or _TRANSIENT_CODES.search(str(error)) is not None


def is_read_only(error: Exception) -> bool:
    """Return whether a replica answered; the connection was opened while it was the primary."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "-READONLY " in str(error))
