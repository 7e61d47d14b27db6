"""A tiny hub: the few answers that fetching a file takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_a_token_that_may"
REFUSALS = {
    "lab/nothing": (404, "RepoNotFound"),
    "lab/gated": (403, "GatedRepo"),
    "lab/broken": (500, ""),
}


class Hub:
    """What the server holds, and what it was asked."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        """Address (`OWNER/REPO/FILE`) -> content; all are on `main`, `v1` and their commit."""
        self.asked: list[str] = []
        self.endpoint = ""

    def answer(self, path: str, token: str | None) -> tuple[int, str, bytes]:
        """Status, error code and content."""
        self.asked.append(path)
        parts = unquote(path).strip("/").split("/")
        repository, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if repository in REFUSALS:
            return (*REFUSALS[repository], b"")
        if repository == "lab/private" and token != f"Bearer {TOKEN}":
            return 401, "RepoNotFound", b""
        if revision not in {"main", "v1", COMMIT}:
            return 404, "RevisionNotFound", b""
        content = self.files.get(f"{repository}/{file}")
        return (404, "EntryNotFound", b"") if content is None else (200, "", content)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub on this machine while the block runs."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            status, code, content = hub.answer(self.path, self.headers["authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
