"""The names of this computer for itself, and who a request over HTTP says it is for."""

from __future__ import annotations

from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def name_of(host: str) -> str | None:
    """The name or address in a Host header, without the port; None for what is no host."""
    if "@" in host or "/" in host:
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname


def host_of(origin: str) -> str | None:
    """Host and port of an Origin of HTTP; None for "null" and all else."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    plain = parts.scheme == "http" and not (parts.path or parts.query or parts.fragment)
    return parts.netloc.lower() if plain and parts.netloc else None
