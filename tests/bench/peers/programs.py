"""Where the peers' programs are."""

from __future__ import annotations

import os
import shutil


def find(name: str) -> str | None:
    """The path of a program; None where there is none. Debian's servers are in folders that not every PATH names."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
