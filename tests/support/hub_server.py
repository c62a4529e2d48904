"""Corpora in the hub's layout, and a server on the loopback that gives them as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "c" * 40


def write_parquet(
    path: Path, texts: Sequence[str | None], column: str = "text", rows: int = 10
) -> Path:
    """Write a file with two columns, in row groups of `rows` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": list(range(len(texts))), column: pa.array(texts, pa.string())})
    pq.write_table(table, path, row_group_size=rows)
    return path


def write_corpus(folder: Path, pattern: str, files: Sequence[Sequence[str | None]]) -> list[Path]:
    """Write the files of a repository whose corpus is `pattern`, and one that is not of it."""
    write_parquet(folder / "other" / "validation.parquet", ["not of the corpus"])
    names = [pattern.replace("*", f"{i:05}-of-{len(files):05}") for i in range(len(files))]
    return [write_parquet(folder / name, texts) for name, texts in zip(names, files, strict=True)]


class Hub(http.server.ThreadingHTTPServer):
    """Answers what is asked about one data set; `asked` are the paths of the requests.

    `failing` is a part of a path that is answered with an error of the server.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.failing: str | None = None
        self.page: bytes | None = None
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.page is not None:
            self._send(200, self.server.page)
        elif self.server.failing and self.server.failing in self.path:
            self._send(500, b"{}")
        elif "/resolve/" in self.path:
            self._send_range(self.path.split(f"/resolve/{COMMIT}/")[1])
        elif "/tree/" in self.path:
            inside = self.path.split(f"/tree/{COMMIT}/")[1].partition("?")[0]
            self._send_json([self._entry(path) for path in self._files(inside)])
        else:
            siblings = [self._sibling(path) for path in self._files("")]
            self._send_json({"id": "a/b", "sha": COMMIT, "siblings": siblings, "tags": []})

    def log_message(self, *_: Any) -> None:
        pass

    def _files(self, inside: str) -> list[Path]:
        return sorted((self.server.folder / inside).rglob("*.parquet"))

    def _entry(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 9}
        name = path.relative_to(self.server.folder).as_posix()
        return {"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs}

    def _sibling(self, path: Path) -> dict[str, Any]:
        entry = self._entry(path)
        lfs = {**entry["lfs"], "sha256": entry["lfs"]["oid"]}
        return {"rfilename": entry["path"], "size": entry["size"], "blobId": "0" * 40, "lfs": lfs}

    def _send_range(self, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"])
        assert asked
        first, last = map(int, asked.groups())
        self._send(206, content[first : last + 1])

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
