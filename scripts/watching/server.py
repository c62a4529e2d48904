"""A server for one page, only for this machine: GET of / and /body, and nothing else.

It reads files only on request, and at most once a second for all clients.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from gpt2.config.errors import UserError
from scripts.watching.page import POLICY, frame

#: Seconds for which a body is reused, and that a client may take for its request.
FRESH, PATIENCE = 1.0, 20.0
_LOOPBACK = "127.0.0.1"

#: Returns the body of the page for a cell's name, or "".
Body = Callable[[str], str]


class WatchServer(ThreadingHTTPServer):
    """Serves the result of `body` at a port of 127.0.0.1; 0: any free port."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, title: str, body: Body) -> None:
        """Listen.

        Raises UserError when the port cannot be used.
        """
        try:
            super().__init__((_LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"PORT={port}: cannot be used: {reason}; leave it out to have a free one"
            ) from error
        self.title, self._body = title, body
        self._lock = threading.Lock()
        self._made: dict[str, tuple[float, str]] = {}

    @property
    def address(self) -> str:
        """Return the address of the page."""
        return f"http://{_LOOPBACK}:{self.server_port}/"

    def known(self, host: str | None) -> bool:
        """Return whether a request names this server itself, not another name for it."""
        return host in (f"{_LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}")

    def body(self, cell: str) -> str:
        """Return the body, at most one second old."""
        with self._lock:
            when, text = self._made.get(cell, (-FRESH, ""))
            if time.monotonic() - when >= FRESH:
                text = self._body(cell)
                self._made = {cell: (time.monotonic(), text)}
            return text

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: a client that went away is no error."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: WatchServer
    timeout = PATIENCE
    server_version, sys_version = "watch", ""
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Send the page or its body."""
        asked = urlsplit(self.path)
        if not self.server.known(self.headers.get("Host")):
            self._send(
                HTTPStatus.FORBIDDEN, "this server answers requests from this machine only\n"
            )
        elif asked.path not in ("/", "/body"):
            self._send(HTTPStatus.NOT_FOUND, "not found: there is only / and /body\n")
        else:
            cell = parse_qs(asked.query, max_num_fields=4).get("cell", [""])[0]
            body = self.server.body(cell)
            tag = f'"{hashlib.sha256(body.encode()).hexdigest()[:16]}"'
            if asked.path == "/body" and self.headers.get("If-None-Match") == tag:
                self._send(HTTPStatus.NOT_MODIFIED, "", tag)
                return
            page = frame(self.server.title, body) if asked.path == "/" else body
            self._send(HTTPStatus.OK, page, tag, "text/html")

    def _send(self, status: HTTPStatus, text: str, tag: str = "", kind: str = "text/plain") -> None:
        data = text.encode()
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            **({"ETag": tag} if tag else {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing: the terminal only shows the page's address."""
