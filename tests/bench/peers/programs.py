"""Finds the programs of the peers."""

from __future__ import annotations

import os
import shutil


def find(name: str) -> str | None:
    """Return the path of a program, or None. Debian installs servers in folders that are not in every PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
