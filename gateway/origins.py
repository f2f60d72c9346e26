"""Origins of web pages (RFC 6454): their normal form, and which may connect."""

from __future__ import annotations

from urllib.parse import urlsplit


def origin_allowed(origin: str | None, allowed: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Tell whether a page of `origin` may connect: it is in `allowed`, or it is served by this gateway (`own`).

    `*` allows every page. A request without an origin is not a browser's; it passes, and its token decides.
    """
    if origin is None or "*" in allowed:
        return True
    normal = normal_origin(origin)
    return normal is not None and normal in {*allowed, *own}


def normal_origin(origin: str) -> str | None:
    """Return an origin as browsers spell it: lower case, without a default port. None for anything else."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        return None
    if parts.query or parts.fragment or parts.username is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None or port == {"http": 80, "https": 443}[parts.scheme.lower()]:
        return f"{parts.scheme.lower()}://{host}"
    return f"{parts.scheme.lower()}://{host}:{port}"
