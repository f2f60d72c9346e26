"""Keys: read from variables and files, cleaned, and refused with a reason where they cannot be sent."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
ADDRESSES: Final = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")
PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
"""Variables, also in upper case, that name a proxy for the SDKs."""

IDENTITIES: Final = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
"""Variables that the SDKs send in a header, if they are set."""

_UNSENDABLE: Final = re.compile(r"[^ -~]")
"""Characters that a header cannot contain, or that no key contains."""


def read_secret_file(value: Any) -> Any:
    """Return the content of the file of `@FILE`, without surrounding white space; return anything else unchanged."""
    if isinstance(value, str) and value.startswith("@"):
        try:
            # Editors of Windows begin a file with a byte order mark.
            return Path(value[1:]).read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise ValueError(f"the file cannot be read ({error.strerror})") from error
        except UnicodeDecodeError:
            raise ValueError("the file is not UTF-8 text") from None
    return value


def clean(value: str) -> str:
    """Return a key or an address without surrounding white space and quotes: consoles and .env files add them.

    Raises ValueError if a character cannot be sent. The message does not quote the value.
    """
    value = value.strip().removeprefix("\ufeff").strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1].strip()
    if bad := _UNSENDABLE.search(value):
        raise ValueError(
            f"character {bad.start() + 1} of {len(value)} is U+{ord(bad[0]):04X}, which no key contains: write it again"
        )
    return value


def proxy_problem(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what is wrong with a proxy variable that the SDKs read, and what to do; None if nothing is."""
    for name in PROXIES:
        for variable in (name, name.upper()):
            if not (value := environment.get(variable, "")):
                continue
            try:
                address = urlsplit(value if "://" in value else f"http://{value}")
                good = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
            except ValueError:
                good = False
            if not good or value != value.strip():
                # The value may contain a password.
                return (
                    f"{variable} is not the address of an HTTP proxy such as http://proxy.example.com:3128: correct "
                    "or unset it (SOCKS proxies are not supported)"
                )
    return None


def read_credentials(environment: MutableMapping[str, str]) -> None:
    """Replace each `@FILE` of a provider's key by the content of the file, and clean what the SDKs read themselves.

    Raises ValueError, which names the variable.
    """
    for name in (*KEYS, *ADDRESSES, *IDENTITIES):
        value = environment.get(name, "")
        try:
            content = clean(read_secret_file(value))
        except ValueError as error:
            shown = f"={value}" if value.startswith("@") or name not in KEYS else ""
            raise ValueError(f"{name}{shown}: {error}") from None
        if content != value:
            environment[name] = content


def key_of(reference: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the key that a target names, `@FILE` or a variable. Raises ValueError, which names it."""
    try:
        value = read_secret_file(reference)
        if value is reference:
            value = read_secret_file(environment.get(reference, ""))
        if not (key := clean(value)):
            raise ValueError("it is empty or not set")
    except ValueError as error:
        raise ValueError(f"key {reference}: {error}") from None
    return key
