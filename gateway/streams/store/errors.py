"""What a caller is told of a store that can not do what was asked, and which errors pass."""

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
"""For errors without a class in redis-py, and those that Redis 6.2 wraps in a script: `ERR ...: 1: -READONLY ...`."""


class StoreError(Exception):
    """The store can not be used as it is; the message says what to do."""


class NoPrimaryError(RedisConnectionError):
    """Nobody who was asked knows a server that would take writes."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time; the same call may succeed later and is safe to repeat."""


class StoreFullError(StoreError):
    """The store refuses writes because it is out of memory; reads still work."""


def is_full(error: Exception) -> bool:
    """Tell whether the server says that it is out of memory."""
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "-OOM " in str(error))


def is_transient(error: Exception) -> bool:
    """Tell whether the same command may succeed in a moment: nobody answers, or somebody who may not write."""
    return isinstance(error, _TRANSIENT) or _TRANSIENT_CODES.search(str(error)) is not None


def is_read_only(error: Exception) -> bool:
    """Tell whether a replica answered, which was a primary when it was connected to."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "-READONLY " in str(error))
