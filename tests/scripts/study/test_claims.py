"""Claims of cells: one of many gets each, and an owner is gone only when that is known."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from gpt2.files import atomic
from scripts.study import claims as claiming
from scripts.study.claims import Claims, Owner

ONE, TWO = Owner(host="one", job="1_0"), Owner(host="two", job="2_0", life=1)


def fall_silent(folder: Path, cell: str, seconds: float) -> None:
    path = Claims(folder).latest()[cell].path
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_claim_is_one_owners_until_it_is_given_back(tmp_path: Path) -> None:
    one, two = Claims(tmp_path, ONE), Claims(tmp_path, TWO)
    assert one.take("a.b-seed1")
    assert not two.take("a.b-seed1")
    assert not one.take("a.b-seed1")  # nor again by itself
    (held,) = two.held().values()
    assert (held.cell, held.owner, str(held.owner)) == ("a.b-seed1", ONE, "job 1_0 on one")
    one.release("a.b-seed1")
    assert two.held() == {}
    assert two.take("a.b-seed1")
    assert Claims(tmp_path).held()["a.b-seed1"].owner == TWO


@pytest.mark.parametrize(
    ("gone", "seconds", "taken"),
    [
        (True, 30, False),  # its job has ended, and it still writes: a node that Slurm lost
        (True, 90, True),
        (False, 1000, False),  # its job is there: suspended, or its file system hangs
        (None, 90, False),  # nobody can be asked
        (None, 400, True),
    ],
)
def test_a_silent_owner(tmp_path: Path, gone: bool | None, seconds: float, taken: bool) -> None:
    asked: list[Owner] = []

    def answer(owner: Owner) -> bool | None:
        asked.append(owner)
        return gone

    one, two = Claims(tmp_path, ONE), Claims(tmp_path, TWO, answer)
    assert one.take("a")
    fall_silent(tmp_path, "a", seconds)
    assert two.take("a") is taken
    assert asked == ([ONE] if seconds > claiming.SILENT else [])
    # The first one notices as soon as it moves again, and knows no claim of its own any more.
    assert one.beat() == (["a"] if taken else [])
    assert one.beat() == []


def test_a_heartbeat_keeps_a_claim(tmp_path: Path) -> None:
    one, two = Claims(tmp_path, ONE), Claims(tmp_path, TWO, lambda _: True)
    assert one.take("a")
    fall_silent(tmp_path, "a", 90)
    assert one.beat() == []
    assert not two.take("a")


def test_what_a_killed_writer_left_of_a_claim_is_gone_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.1").touch()
    two = Claims(tmp_path, TWO)
    assert not two.take("a")
    fall_silent(tmp_path, "a", 400)
    assert two.take("a")


def contend(folder: Path, number: int, rounds: int, won: multiprocessing.Queue[str]) -> None:
    mine = Claims(folder, Owner(host=str(number)), lambda _: True)
    for turn in range(rounds):
        for cell in range(4):
            if mine.take(f"{turn}-{cell}"):
                won.put(f"{turn}-{cell}")


def without_links(*_: object) -> None:
    raise PermissionError(1, "no hard links")


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_of_many_at_once_one_gets_each(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(atomic.os, "link", without_links)
    context = multiprocessing.get_context("fork")
    won: multiprocessing.Queue[str] = context.Queue()
    # Half of the cells have a silent owner, whom all want to follow.
    dead = Claims(tmp_path, ONE)
    for turn in range(10):
        for cell in (0, 1):
            assert dead.take(f"{turn}-{cell}")
            fall_silent(tmp_path, f"{turn}-{cell}", 90)
    all_ = [context.Process(target=contend, args=(tmp_path, n, 10, won)) for n in range(4)]
    for process in all_:
        process.start()
    found = sorted(won.get(timeout=60) for _ in range(40))
    for process in all_:
        process.join(60)
    assert won.empty()
    assert found == sorted(f"{turn}-{cell}" for turn in range(10) for cell in range(4))
