"""Corpora of the hub: the same documents from a folder and over the network, and what fails."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import tiktoken
from huggingface_hub import constants

from gpt2 import prepare_data
from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Corpus, Request
from gpt2.data.prepare.pipeline import prepare
from gpt2.data.sources import hub, parquet_files, streaming
from gpt2.data.sources.hub import Repository
from gpt2.data.splits import SPLITS, split_of
from gpt2.data.tokenizer import Gpt2Tokenizer
from gpt2.data.tokens import open_split
from tests.support.hub_server import COMMIT, Hub, serving, write_corpus, write_parquet

ROOT = Path(__file__).resolve().parents[3]
CORPORA = "gpt2.data.corpora"
MODULES = {name: plugins.load(CORPORA, name) for name in plugins.names(CORPORA)}
REPOSITORIES: dict[str, Repository] = {
    name: module.REPOSITORY for name, module in MODULES.items() if "REPOSITORY" in vars(module)
}
TINY = REPOSITORIES["tinystories"]


def texts(number: int, seed: int = 1) -> list[str | None]:
    rng = random.Random(seed)
    words = [
        "Once",
        " upon",
        " a",
        " time",
        ",",
        "\n\n",
        " caf\xe9",
        " \U0001f642",
        "<|endoftext|>",
    ]
    found: list[str | None] = ["".join(rng.choices(words, k=12)) for _ in range(number)]
    return [*found, "", None]


FILES = [texts(25, 1), texts(33, 2), texts(8, 3)]
DOCUMENTS = [text for file in FILES for text in file]


def open_corpus(repository: Repository, tmp_path: Path, given: Path | None) -> Corpus:
    return hub.open_repository(repository, Request(given, None, tmp_path / "downloads"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of TinyStories."""
    write_corpus(tmp_path / "in", TINY.files, FILES)
    return tmp_path / "in"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has TinyStories, and waits for nothing between two tries."""
    with serving(folder) as running:
        at(running.address, monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        yield running


def at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    huggingface_hub.HfFileSystem.clear_instance_cache()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.code == Exit.DATA
    (message,) = caught.value.messages
    assert "\n" not in message
    return message


def read(corpus: Corpus, skip: int = 0) -> list[tuple[str, str]]:
    return [(d.split, "".join(d.pieces)) for d in corpus.documents(skip)]


def expected(repository: Repository, documents: list[str | None]) -> list[tuple[str, str]]:
    every = [text or "" for text in documents]
    return [(split_of(text, repository.held_out_one_in), text) for text in every]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_ids_are_those_of_tiktoken(name: str, tmp_path: Path) -> None:
    repository = REPOSITORIES[name]
    assert repository.dataset == name
    # Enough documents that some are held out, of which one in a hundred or two hundred is.
    files = [texts(900, 4), texts(700, 5)]
    write_corpus(tmp_path / "in", repository.files, files)
    request = Request(tmp_path / "in", None, tmp_path / "downloads")
    corpus: Corpus = MODULES[name].open_corpus(request)
    assert corpus.separated
    assert corpus.text_bytes is not None
    assert corpus.text_bytes >= sum(len((text or "").encode()) for file in files for text in file)
    meta = prepare(corpus, tmp_path / "out", name)
    assert meta.source["address"] == str(tmp_path / "in")
    assert meta.source["licence"] == repository.licence
    plain = Gpt2Tokenizer()._encoding
    assert isinstance(plain, tiktoken.Encoding)
    documents = expected(repository, [text for file in files for text in file])
    for split in SPLITS:
        ids: list[int] = []
        for where, text in documents:
            if where == split and text:
                ids += [*plain.encode_ordinary(text), 50256]
        assert list(open_split(tmp_path / "out", split, 1).ids) == ids
        assert len(ids) > 20


def test_a_second_preparation_of_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The folder also holds a parquet file that is not of the corpus.
    write_corpus(folder, TINY.files, [texts(900, 4)])
    for path in (folder / "data").glob("*-of-00003.parquet"):
        path.unlink()
    command = ["--dataset", "tinystories", "--data-dir", str(tmp_path), "--input", str(folder)]
    command += ["--workers", "1", "--tokenizer-backend", "tiktoken"]
    assert prepare_data.main(command) == Exit.OK
    assert capsys.readouterr().out.startswith("prepared in")
    assert prepare_data.main(command) == Exit.OK
    assert capsys.readouterr().out.startswith("already prepared in")
    with pytest.raises(UserError, match="--text-column body has no effect on --dataset"):
        prepare_data.main([*command, "--text-column", "body"])
    write_corpus(folder, TINY.files, [texts(800, 4)])
    assert "which has changed since" in refused(lambda: prepare_data.main(command))


def test_what_is_appended_moves_nothing(folder: Path, tmp_path: Path) -> None:
    before = read(open_corpus(TINY, tmp_path, folder))
    assert before == expected(TINY, DOCUMENTS)
    more = tmp_path / "more"
    write_corpus(more, TINY.files, [texts(40, 9), *FILES, texts(50, 8)])
    after = read(open_corpus(TINY, tmp_path, more))
    assert after[42 : 42 + len(before)] == before


def test_about_one_in_so_many_is_held_out() -> None:
    for repository in REPOSITORIES.values():
        one_in = repository.held_out_one_in
        held = [f"a{i}" for i in range(400 * one_in) if split_of(f"a{i}", one_in) != "train"]
        # Those that were for validation before there was a test split, by the same hash.
        first = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in held]
        assert all(int(digits, 16) % one_in == 0 for digits in first)
        assert 350 < len(held) < 450
        assert 150 < sum(split_of(text, one_in) == "val" for text in held) < 250


def test_documents_are_passed_over_by_the_footers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = open_corpus(TINY, tmp_path, folder)
    every = expected(TINY, DOCUMENTS)
    read_from: list[str] = []
    texts_in = parquet_files.texts

    def noted(file: Any, place: str, column: str, skip: int) -> Iterator[tuple[int, str]]:
        read_from.append(Path(place).name)
        return texts_in(file, place, column, skip)

    monkeypatch.setattr(parquet_files, "texts", noted)
    for skip in (0, 1, 9, 10, 26, 27, 28, 50, 61, 62, len(every) - 1, len(every), 999):
        read_from.clear()
        assert read(corpus, skip) == every[skip:]
        first = sum(skip >= end for end in (27, 62, 72))
        assert read_from == [f"train-{i:05}-of-00003.parquet" for i in range(first, 3)]


def test_odd_names_of_folders(tmp_path: Path) -> None:
    for name in (
        "my data",
        "[a]",
        "a*b",
        "q?",
        "#1",
        "__x__",
        ".hidden",
        "\u00e4",
        "{a,b}",
        "a::b",
    ):
        write_corpus(tmp_path / name, TINY.files, [["one", "two"]])
        corpus = open_corpus(TINY, tmp_path, tmp_path / name)
        assert [text for _, text in read(corpus)] == ["one", "two"]


def test_folders_that_are_not_right(folder: Path, tmp_path: Path) -> None:
    def opened() -> Corpus:
        return open_corpus(TINY, tmp_path, folder)

    places = sorted((folder / "data").iterdir())
    places[1].rename(tmp_path / "away.parquet")
    message = refused(opened)
    assert "2 of the 3" in message
    assert "--dataset text" in message
    write_parquet(places[1], ["x"], column="body")
    message = refused(opened)
    assert str(places[1]) in message
    assert "id (int64), body (string)" in message
    content = (tmp_path / "away.parquet").read_bytes()
    for damaged in (content[:-9], content[:50], b"", b"no parquet at all"):
        places[1].write_bytes(damaged)
        assert str(places[1]) in refused(opened)
    for place in places:
        place.unlink()
    for given in (folder, tmp_path / "away.parquet", tmp_path / "none"):
        message = refused(lambda given=given: open_corpus(TINY, tmp_path, given))  # type: ignore[misc]
        assert TINY.files in message
        assert str(given) in message


def test_damage_within_a_file_is_named(folder: Path, tmp_path: Path) -> None:
    place = sorted((folder / "data").iterdir())[1]
    content = bytearray(place.read_bytes())
    content[60:400] = bytes(340)
    place.write_bytes(content)
    message = refused(lambda: read(open_corpus(TINY, tmp_path, folder)))
    assert str(place) in message
    assert "damaged" in message


def test_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    request = Request(folder, "char", tmp_path)
    assert "--tokenizer char" in refused(lambda: hub.open_repository(TINY, request))


def test_a_missing_library_is_named_with_the_way_to_get_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused(lambda: open_corpus(TINY, tmp_path, folder))
    assert message.startswith("--dataset tinystories needs the Python package 'datasets'")
    assert message.endswith("-m pip install datasets")


def test_the_hub_gives_what_a_folder_gives(folder: Path, tmp_path: Path, server: Hub) -> None:
    placed = open_corpus(TINY, tmp_path, folder)
    corpus = open_corpus(TINY, tmp_path, None)
    assert corpus.source["address"] == "https://huggingface.co/datasets/roneneldan/TinyStories"
    assert corpus.source["commit"] == COMMIT
    for same in ("files", "bytes", "sha256", "licence"):
        assert corpus.source[same] == placed.source[same]
    assert read(corpus) == read(placed)
    asked = [path for path in server.asked if "/resolve/" not in path]
    # No statistics, no other files, no second look: what there is, and what the folder holds.
    assert all(path.startswith("/api/datasets/roneneldan/TinyStories") for path in asked)
    assert len(asked) < 10
    server.asked.clear()
    assert read(corpus, 63) == read(placed, 63)
    wanted = [path for path in server.asked if "train-00000" in path]
    assert len(wanted) <= 1  # the footer


def test_a_connection_that_breaks_off(tmp_path: Path, server: Hub) -> None:
    corpus = open_corpus(TINY, tmp_path, None)
    server.failing = "train-00001"
    found: list[str] = []
    message = refused(lambda: found.extend("".join(d.pieces) for d in corpus.documents()))
    assert found == [text or "" for text in FILES[0]]
    assert "train-00001-of-00003.parquet" in message
    assert "continues where this one stopped" in message
    assert len(server.asked) < 100


def assert_way_out(message: str, downloads: Path) -> None:
    place = downloads / "tinystories"
    assert "roneneldan/TinyStories" in message
    assert f"--include 'data/train-*.parquet' --local-dir {place}" in message
    assert f"--input {place}" in message


def test_a_hub_without_the_corpus(tmp_path: Path, server: Hub) -> None:
    for path in (server.folder / "data").iterdir():
        path.unlink()
    message = refused(lambda: open_corpus(TINY, tmp_path, None))
    assert_way_out(message, tmp_path / "downloads")
    assert "no data/train-*.parquet" in message


def test_a_page_for_signing_in(tmp_path: Path, server: Hub) -> None:
    server.page = b"<html>Please sign in"
    message = refused(lambda: open_corpus(TINY, tmp_path, None))
    assert_way_out(message, tmp_path / "downloads")


def test_a_hub_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        monkeypatch.setattr(streaming, "_LISTING_SECONDS", 0.2)
        message = refused(lambda: open_corpus(TINY, tmp_path, None))
    assert "no answer in 0.2 seconds" in message
    assert_way_out(message, tmp_path / "downloads")


@pytest.mark.slow
@pytest.mark.parametrize("name", REPOSITORIES)
def test_no_network_is_one_line_and_exit_3(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    data = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "gpt2/prepare_data.py", "--dataset", name, "--data-dir", str(data)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == Exit.DATA
    assert len(done.stderr.splitlines()) == 1
    assert REPOSITORIES[name].files in done.stderr
    assert f"--input {data / 'downloads' / name}" in done.stderr
    assert list(home.iterdir()) == []
    assert not (data / name / "meta.json").exists()
