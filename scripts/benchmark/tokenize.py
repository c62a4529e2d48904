"""Speed and memory of preparation: MB/s beside plain tiktoken, and what longer text adds in memory.

All sides read the same .jsonl and write the same tokens, turn by turn, in one process. Memory is
that of prepare_data.py as a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.config import plugins
from gpt2.config.errors import UserError
from gpt2.config.typed import PLUGIN_PACKAGES
from gpt2.data.corpus import Request
from gpt2.data.prepare.pipeline import Settings, prepare
from gpt2.data.tokenizer import Gpt2Tokenizer
from scripts.benchmark.measure import spread
from scripts.benchmark.tables import table

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = 5  # megabytes: the text that a longer one is compared with in memory
_SPEED = 20  # megabytes of a turn, at most
_WORDS, _LETTERS = 50_000, "etaoinshrdlucmfwypvbgkqjxz"
_SAMPLED = 0.01  # seconds between two looks at the memory


def main(megabytes: int, repeats: int, report_to: Path | None) -> None:
    """Measure with up to `megabytes` of text, `repeats` turns; print a table. Raises UserError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "speed.jsonl"
        size = write_corpus(text, min(megabytes, _SPEED))
        report: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "load_average": os.getloadavg()[0],
            "cores": os.cpu_count(),
            "tiktoken": metadata.version("tiktoken"),
            "text_bytes": size,
            "sides": _speeds(_sides(text, folder), size, repeats),
            "memory": [_memory(megabytes_, folder) for megabytes_ in sorted({SHORT, megabytes})],
        }
    if report_to:
        report_to.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(_as_tables(report))


def write_corpus(path: Path, megabytes: int, seed: int = 1) -> int:
    """Write about `megabytes` of made-up documents as .jsonl; return the UTF-8 bytes of their text.

    The frequency of a word falls as one over its rank. Documents have 20 to 2000 words.
    """
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in _documents(seed):
            file.write(json.dumps({"text": text}) + "\n")
            size += len(text.encode())
            if size >= megabytes * 1_000_000:
                return size
    raise AssertionError("documents end nowhere")


def _documents(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    letters = [1.0 / rank for rank in range(1, len(_LETTERS) + 1)]
    words = [
        "".join(rng.choices(_LETTERS, letters, k=1 + min(14, int(rng.expovariate(0.25)))))
        for _ in range(_WORDS)
    ]
    ends = [" "] * 7 + [", ", ". ", "\n", " 1977 ", " caf\xe9 "]
    draws = np.random.Generator(np.random.PCG64(seed))
    shares = np.cumsum(1.0 / np.arange(1, _WORDS + 1))
    while True:
        count = int(draws.integers(20, 2000))
        ranks = np.searchsorted(shares, draws.random(count) * shares[-1]).tolist()
        marks = draws.integers(0, len(ends), count).tolist()
        yield "".join([words[rank] + ends[mark] for rank, mark in zip(ranks, marks, strict=True)])


# -- speed ---------------------------------------------------------------------------------------


def _sides(text: Path, folder: Path) -> dict[str, Callable[[], str]]:
    """Return what prepares `text`, by name; each returns the hash of its training tokens."""
    cores = os.cpu_count() or 1
    sides: dict[str, Callable[[], str]] = {
        "plain tiktoken": partial(_plain, text, folder / "plain"),
        "ours, 1 worker": partial(_ours, text, folder / "one", Settings(1)),
    }
    if cores > 1:
        name = f"ours, {cores} workers"
        sides[name] = partial(_ours, text, folder / "many", Settings(cores))
    try:
        metadata.version("gigatoken")
    except metadata.PackageNotFoundError:
        return sides
    faster = Settings(1, backend="gigatoken")
    sides["ours, 1 worker, gigatoken"] = partial(_ours, text, folder / "faster", faster)
    return sides


def _plain(text: Path, folder: Path) -> str:
    """Write every document's tokens as the usual script does: tiktoken's lists, in one process."""
    encoding = Gpt2Tokenizer()._encoding
    folder.mkdir(exist_ok=True)
    with text.open(encoding="utf-8") as lines, (folder / "train.bin").open("wb") as file:
        for line in lines:
            ids = encoding.encode_ordinary(json.loads(line)["text"])
            ids.append(encoding.eot_token)
            file.write(np.array(ids, dtype=np.uint16).tobytes())
    return str((folder / "train.bin").stat().st_size)


def _ours(text: Path, folder: Path, settings: Settings) -> str:
    plugin = plugins.load(PLUGIN_PACKAGES["DATASET"], "text")
    corpus = plugin.open_corpus(Request(text, "gpt2", folder))
    meta = prepare(corpus, folder, "text", settings=settings)
    return str(2 * sum(split.tokens for split in meta.splits.values()))


def _speeds(sides: dict[str, Callable[[], str]], size: int, repeats: int) -> dict[str, Any]:
    """Time the sides turn by turn; ratios are taken within a turn."""
    if len({run() for run in sides.values()}) > 1:  # which also warms up
        raise UserError("the sides write different numbers of tokens: nothing was compared")
    walls: dict[str, list[float]] = {name: [] for name in sides}
    cores: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wall, core = time.perf_counter(), time.process_time()
            run()
            walls[name].append(size / 1e6 / (time.perf_counter() - wall))
            cores[name].append(size / 1e6 / (time.process_time() - core))
    plain_wall, plain_core = walls["plain tiktoken"], cores["plain tiktoken"]
    return {
        name: {
            "mb_per_second": spread(walls[name]),
            "mb_per_core_second": spread(cores[name]),
            "of_plain": spread([a / b for a, b in zip(walls[name], plain_wall, strict=True)]),
            "of_plain_per_core": spread(
                [a / b for a, b in zip(cores[name], plain_core, strict=True)]
            ),
        }
        for name in sides
    }


# -- memory --------------------------------------------------------------------------------------


def _memory(megabytes: int, folder: Path) -> dict[str, Any]:
    """Prepare so much text in a process of its own; return its largest anonymous memory."""
    text, data = folder / f"{megabytes}.jsonl", folder / f"data-{megabytes}"
    size = write_corpus(text, megabytes)
    command = [sys.executable, "gpt2/prepare_data.py", "--input", str(text), "--data-dir"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, str(data)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(_SAMPLED)
    _, said = process.communicate()
    if process.returncode:
        raise UserError(f"prepare_data.py failed: {said.decode(errors='replace').strip()}")
    seconds = time.perf_counter() - start
    text.unlink()
    return {"text_bytes": size, "rss_anon_bytes": peak, "seconds": seconds}


def _anonymous(pid: int) -> int:
    """RssAnon of a process in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("RssAnon:")), 0)


# -- tables --------------------------------------------------------------------------------------


def _as_tables(report: dict[str, Any]) -> str:
    def cell(value: dict[str, float]) -> str:
        return f"{value['median']:.2f} +- {value['iqr']:.2f}"

    rows = [
        [name, *(cell(side[key]) for key in ("mb_per_second", "mb_per_core_second"))]
        + [cell(side[key]) for key in ("of_plain", "of_plain_per_core")]
        for name, side in report["sides"].items()
    ]
    titles = ["side", "MB/s", "MB per second of one core", "times plain", "times plain, per core"]
    first = report["memory"][0]["rss_anon_bytes"]
    memory = [
        [
            f"{row['text_bytes'] / 1e6:,.0f}",
            f"{row['rss_anon_bytes'] / 1e6:.0f}",
            f"{(row['rss_anon_bytes'] - first) / 1e6:+.1f}",
            f"{row['seconds']:.1f}",
        ]
        for row in report["memory"]
    ]
    return (
        f"{report['text_bytes'] / 1e6:.0f} MB of made-up text a turn, tiktoken"
        f" {report['tiktoken']}, {report['cores']} cores, load {report['load_average']:.1f} before;"
        " medians and interquartile ranges.\n\n"
        + table(titles, rows)
        + "\n\n"
        + table(["text, MB", "anonymous memory, MB", "above the first", "seconds"], memory)
    )
