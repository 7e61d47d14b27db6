"""Asking servers for files: over https, http and ftp, from any byte on where they can do that."""

from __future__ import annotations

import ftplib
import http.client
import re
import string
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from eosfm_cli import __version__
from eosfm_cli.errors import DataError, UsageError

BLOCK = 1 << 20
"""Bytes that are taken at once."""
_TIMEOUT_S = 60.0
_FTP_PORT = 21
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that may be another one a moment later."""


def name_in(url: str) -> str:
    """The file's name in an address: `https://a.org/b%20c.zip?download=1` -> `b c.zip`."""
    return Path(unquote(urlsplit(url).path)).name


def check_address(url: str) -> None:
    """Refuse addresses that nothing can be fetched from.

    Raises:
        UsageError: It is of another kind, or incomplete.
    """
    if not _is_complete(url):
        raise UsageError(
            f"{url} is nothing to download.",
            hint="dataset.files takes addresses that begin with https:// (or http://, ftp://).",
        )


def _is_complete(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - refuses what is no number
    except ValueError:
        return False
    is_one_line = not {"\r", "\n"} & {*unquote(url)}
    return parts.scheme in {"https", "http", "ftp"} and bool(parts.hostname) and is_one_line


class CutOffError(Exception):
    """What came was not all, or nothing came; another try may bring more."""

    def __init__(self, reason: object, wait_s: float | None = None) -> None:
        super().__init__(str(reason))
        self.wait_s = wait_s


class _Readable(Protocol):
    def read(self, amount: int, /) -> bytes: ...


@dataclass(frozen=True)
class Answer:
    """What a server sends of a file."""

    body: _Readable
    start: int
    """The byte it begins with: where it was asked to, or 0 if it sends the whole file."""
    size: int | None
    """Bytes of the whole file."""
    validator: str | None
    """What changes when the file does."""

    def blocks(self) -> Iterator[bytes]:
        """The bytes, block by block."""
        while True:
            try:
                block = self.body.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise CutOffError(error) from None
            if not block:
                return
            yield block


@contextmanager
def opened(url: str, start: int = 0, validator: str | None = None) -> Iterator[Answer]:
    """Ask for a file from a byte on; servers that cannot do so send it whole."""
    by_ftp = urlsplit(url).scheme == "ftp"
    with _ftp(url, start) if by_ftp else _http(url, start, validator) as answer:
        yield answer


@contextmanager
def _http(url: str, start: int, validator: str | None) -> Iterator[Answer]:
    headers = {"User-Agent": f"eosfm/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    with _response(urllib.request.Request(_encoded(url), headers=headers)) as response:
        if response is None:
            with _http(url, 0, None) as answer:
                yield answer
            return
        begins, size = _extent(response.status, response.headers)
        yield Answer(response, begins, size, _validator(response.headers))


def _encoded(url: str) -> str:
    """An address as servers take it: blanks and letters beyond ASCII written out."""
    return quote(url, safe=string.punctuation)


@contextmanager
def _response(request: urllib.request.Request) -> Iterator[Any]:
    """Open a request; `None` where the file ends before the byte that was asked for."""
    try:
        response = urllib.request.build_opener(NoDowngrade).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _refusal(request.full_url, error) from None
        yield None
        return
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise CutOffError(getattr(error, "reason", None) or error) from None
    with response:
        yield response


class NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from an encrypted to an open connection."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow, or refuse to."""
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DataError(
                f"{req.full_url} is handed on to {newurl}, which is not encrypted.",
                hint="Fetch the file by hand if you trust that.",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _extent(status: int, headers: Message) -> tuple[int, int | None]:
    """The first byte that is sent, and the bytes of the whole file."""
    if status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if found is None:
            raise CutOffError("the server sends a part, but does not say which")
        whole = found[2]
        return int(found[1]), None if whole == "*" else int(whole)
    length = headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(headers: Message) -> str | None:
    """A strong validator, as `If-Range` takes it."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    why = str(error.reason).partition("\n")[0].rstrip(".")
    reason = f"{error.code} {why}"
    if error.code in _PASSING:
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        return CutOffError(reason, float(wait) if wait.isdecimal() else None)
    if error.code in {401, 403}:
        return DataError(
            f"The server does not give {url} to everyone ({reason}).",
            hint="It may want a login: fetch the file by hand, from the dataset's homepage.",
        )
    return DataError(
        f"{url} is not there ({reason}).",
        hint="It may have moved: see the dataset's homepage, and fetch it by hand.",
    )


@contextmanager
def _ftp(url: str, start: int) -> Iterator[Answer]:
    parts = urlsplit(url)
    path = unquote(parts.path)
    client = ftplib.FTP(timeout=_TIMEOUT_S)
    try:
        client.connect(parts.hostname or "", parts.port or _FTP_PORT)
        client.login(unquote(parts.username or "anonymous"), unquote(parts.password or ""))
        client.voidcmd("TYPE I")
        size = client.size(path)
        begins = start if size is not None and start < size else 0
        with (
            client.transfercmd(f"RETR {path}", rest=begins or None) as connection,
            connection.makefile("rb") as body,
        ):
            yield Answer(body, begins, size, None)
    except ftplib.error_perm as error:
        raise DataError(
            f"{url} is not there, or not given to everyone ({error}).",
            hint="Fetch it by hand, as the dataset's homepage says.",
        ) from None
    except (ftplib.Error, EOFError, OSError) as error:
        raise CutOffError(error) from None
    finally:
        client.close()
