"""Files elsewhere, read by byte ranges through fsspec; only where the user's words name a URL.

Each protocol needs a package of its own, which is imported when it is used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from openmae.errors import DataError, StorageError, UsageError

T = TypeVar("T")

PROTOCOLS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
    "memory": "fsspec",
}
"""What may be named, and the package that it needs."""

WAITS = (0.25, 0.5, 1.0)  # seconds before each of three more tries
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "commit_hash", "last_commit")
_NO_RANGES = "{}: the server does not answer byte ranges. Download it first"
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


def is_remote(words: str) -> bool:
    """Whether words name a URL.

    Raises:
        DataError: of a protocol that is not read, or of several in a chain.
    """
    if words.startswith("pipe:"):
        raise DataError(f"{words}: commands are not run. Give the URL of the shards itself")
    found = _SCHEME.match(words)
    if found is None:
        return False
    if found[1].lower() not in PROTOCOLS or words.count("://") > 1 or "::" in words:
        known = " ".join(f"{name}://" for name in PROTOCOLS if name != "memory")
        raise DataError(f"{public(words)} is not a path that is read. One of: {known}")
    return True


def public(url: str) -> str:
    """A URL without what may be secret: user, password, signature."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
    return url


def describe(url: str) -> tuple[int, str]:
    """Size in bytes, and what changes when the content does.

    Raises:
        DataError: it is not there, refused, out of reach, or cannot be read by ranges.
        UsageError: a package is missing.
    """
    info: dict[str, Any] = _trying(lambda: _at(url)[0].info(_at(url)[1]), url)
    if info.get("type") == "directory":
        raise DataError(f"{public(url)} is a folder")
    size = info.get("size")
    ranges = info.get("partial", True)
    if size is None or not ranges or size < 0:
        raise DataError(
            f"{public(url)}: the server tells no size or allows no byte ranges. Download it first"
        )
    if url.lower().startswith("http") and size > 1:
        _trying(lambda: _second_byte(url), url)
    stamps = [str(info[name]) for name in (*_STAMPS, *_TIMES) if info.get(name)]
    return int(size), "|".join(stamps)


def _second_byte(url: str) -> bytes:
    """A server that ignores ranges would send the whole file for each image; fsspec's file notices
    that before it reads, unless the range begins at 0.
    """
    fs, path = _at(url)
    with fs.open(path, "rb", block_size=4096, cache_type="none") as file:
        file.seek(1)
        data: bytes = file.read(1)
        return data


def read(url: str, start: int, count: int) -> bytes:
    """`count` bytes from `start` on, fewer at the end; tried again three times.

    Raises:
        DataError: they cannot be had.
        StorageError: the place cannot be reached.
    """

    def get() -> bytes:
        fs, path = _at(url)
        data: bytes = fs.cat_file(path, start=start, end=start + count)
        return data

    if count <= 0:
        return b""
    data = _trying(get, url)
    if len(data) > count:
        raise DataError(_NO_RANGES.format(public(url)))
    return data


def below(url: str, suffix: str) -> list[str]:
    """URLs of files with a suffix: below a folder, or matching a pattern, in sorted order.

    Raises:
        DataError: there is no such folder, or the protocol has no folders.
    """
    protocol = url.split("://", 1)[0]
    if protocol in ("http", "https"):
        raise DataError(
            f"{public(url)}: web servers have no folders. Name the files:"
            f" .../train-{{000..146}}{suffix}"
        )

    def find() -> list[str]:
        fs, path = _at(url)
        found = fs.glob(path) if re.search(r"[*?\[]", path) else fs.find(path)
        return sorted(str(name) for name in found if str(name).endswith(suffix))

    return [f"{protocol}://{name.lstrip('/')}" for name in _trying(find, url)]


def _at(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; fsspec keeps one a process, so that a forked
    loader has its own connections.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise _needs(url, "fsspec") from None
    try:
        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        package = PROTOCOLS[url.split("://", 1)[0].lower()]
        if isinstance(error, ValueError) and "not known" not in str(error):
            raise
        raise _needs(url, package) from None


def _needs(url: str, package: str) -> UsageError:
    what = '"openmae[tables]"' if package == "fsspec" else package
    return UsageError(f"{url.split('://', 1)[0]}:// needs {package}: pip install {what}")


def _trying(action: Callable[[], T], url: str) -> T:
    """Do it, again after a short wait where it may help, and say in our words what went wrong."""
    for wait in (*WAITS, None):
        try:
            return action()
        except (DataError, UsageError):
            raise
        except Exception as error:  # every protocol's package has errors of its own
            said = _final(error, url)
            if said is not None:
                raise DataError(said) from None
            if wait is None:
                # no DataError: a lost network must end a run, not count as images that are bad
                raise StorageError(
                    f"{public(url)} cannot be reached: {_reason(error)}. Tried"
                    f" {len(WAITS) + 1} times: is the network there?"
                ) from None
        time.sleep(wait)
    raise AssertionError("the last try raises or returns")


def _final(error: BaseException, url: str) -> str | None:
    """What to say of an error that another try would not mend; None of the others."""
    cause = error.__cause__
    status = getattr(error, "status", getattr(cause, "status", None))
    kind = type(error).__name__
    if status in (401, 403) or isinstance(error, PermissionError) or "Credential" in kind:
        return (
            f"{public(url)}: access is refused ({_reason(error)}). Log in as the storage's own"
            " tools ask, or check the name"
        )
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and cause is None):
        return f"{public(url)} does not exist"
    if status == 416 or (isinstance(error, ValueError) and "range" in str(error)):
        return _NO_RANGES.format(public(url))
    return None


def _reason(error: BaseException) -> str:
    """One line; of a wrapped error that of the inner one, and no URL with its signature."""
    inner = error.__cause__ or error
    text = " ".join(str(inner).split()) or type(inner).__name__
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)[:160]
