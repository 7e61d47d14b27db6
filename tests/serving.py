"""Servers on this machine that hand out files, and can be made to misbehave."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FileServer:
    """What a server hands out, and how."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    """Whether it can send files from the middle on."""
    tags: bool = True
    """Whether it says when a file has changed."""
    cuts: list[int | None] = field(default_factory=list)
    """Bytes after which it closes the connection, request by request; then it sends all."""
    answers: list[int] = field(default_factory=list)
    """Codes that it answers with, each once, instead of the file."""
    redirect: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of each request."""
    pause_at: int | None = None
    """Bytes of a file after which it sends no more, until the other side goes."""
    address: str = ""

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    @property
    def ranges_asked(self) -> list[str]:
        return [span for _, span in self.asked if span]


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Serve over http."""
    served = FileServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(served: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/")
            served.asked.append((name, self.headers.get("Range")))
            if served.answers:
                self._say(served.answers.pop(0))
            elif name in served.redirect:
                self._say(302, Location=served.redirect[name])
            elif name not in served.files:
                self._say(404)
            else:
                self._send(served.files[name])

        def _say(self, code: int, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": "0", **headers}.items():
                self.send_header(key, value)
            self.end_headers()

        def _send(self, data: bytes) -> None:
            tag = f'"{hashlib.md5(data).hexdigest()}"'
            start = self._start(tag)
            if start >= len(data) > 0:
                self._say(416, **{"Content-Range": f"bytes */{len(data)}"})
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if served.tags:
                self.send_header("ETag", tag)
            self.end_headers()
            self._body(data[start:])

        def _start(self, tag: str) -> int:
            asked = self.headers.get("Range")
            if not served.ranges or asked is None:
                return 0
            condition = self.headers.get("If-Range")
            return 0 if condition not in {None, tag} else int(asked[len("bytes=") : -1])

        def _body(self, data: bytes) -> None:
            if served.cuts:
                data = data[: served.cuts.pop(0)]
            try:
                self._write(data)
            except (BrokenPipeError, ConnectionResetError):  # who only wants the size is gone
                self.close_connection = True

        def _write(self, data: bytes) -> None:
            if served.pause_at is None or len(served.asked) < 2:  # the first asks for the size
                self.wfile.write(data)
                return
            self.wfile.write(data[: served.pause_at])
            self.connection.recv(1)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def ftp_server(files: dict[str, bytes], login: tuple[str, str]) -> Iterator[str]:
    """Serve over ftp, as far as downloads need it; gives the address without a name."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve_ftp, args=(listener, files, login), daemon=True)
    thread.start()
    try:
        yield f"ftp://{login[0]}:{login[1]}@127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _serve_ftp(listener: socket.socket, files: dict[str, bytes], login: tuple[str, str]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rwb", buffering=0) as line:
            _ftp_session(line, files, login)


def _ftp_session(line: Any, files: dict[str, bytes], login: tuple[str, str]) -> None:
    said, start = [], 0
    data = socket.create_server(("127.0.0.1", 0))
    high, low = divmod(data.getsockname()[1], 256)
    line.write(b"220 ready\r\n")
    while command := line.readline().decode().strip():
        word, _, rest = command.partition(" ")
        content = files.get(rest.lstrip("/"))
        match word:
            case "USER" | "PASS":
                said.append(rest)
                known = tuple(said) == login[: len(said)]
                answer = ("331 and the word?" if word == "USER" else "230 in") if known else "530"
            case "SIZE" | "RETR" if content is None:
                answer = "550 there is no such file"
            case "SIZE":
                answer = f"213 {len(content)}"
            case "PASV":
                answer = f"227 here (127,0,0,1,{high},{low})"
            case "REST":
                start, answer = int(rest), "350 from there"
            case "RETR":
                line.write(b"150 it comes\r\n")
                with data.accept()[0] as pipe, suppress(BrokenPipeError, ConnectionResetError):
                    pipe.sendall(content[start:])  # unless who only wants the size is gone
                answer = "226 that is all"
            case _:
                answer = "200 well"
        line.write(f"{answer}\r\n".encode())
    data.close()
