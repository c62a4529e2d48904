"""Tasks that share a matrix: what one does the others know, and a rate is chosen once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from scripts.study import owners as sharing
from scripts.study.claims import Claims, Owner
from scripts.study.folder import MatrixFolder
from scripts.study.owners import Others
from scripts.study.queue import CellQueue, states_at_start
from scripts.study.records import (
    CellRecord,
    Chosen,
    ChosenRate,
    Failed,
    Finished,
    MatrixRecord,
    Started,
    TuningRecord,
)
from tests.support.small_cells import cell_record, matrix_record


class Tasks:
    """Tasks of one submission, in this process."""

    def __init__(self, path: Path, record: MatrixRecord) -> None:
        self.path, self.record = path, record
        self.folder = MatrixFolder(path)
        path.mkdir()
        self.folder.write_matrix(record)
        self.gone: set[str] = set()

    def task(self, job: str) -> tuple[CellQueue, Others, MatrixFolder]:
        folder = MatrixFolder(self.path)
        folder.join(f"host-{job}.0")
        states = states_at_start(folder, self.record)
        claims = Claims(
            self.path, Owner(host="host", job=job), lambda owner: owner.job in self.gone
        )
        others = Others(folder, claims, states, "first")
        others.refresh(at_once=True)
        return CellQueue(folder, self.record, states, lambda _: None, others), others, folder

    def finish(self, cell: CellRecord, others: Others, folder: MatrixFolder) -> None:
        run = folder.run_dir(cell.name)
        run.mkdir(parents=True)
        loss = float(cell.axes.get("learning-rate", 1))
        (run / "summary.json").write_text(
            f'{{"seconds": 1, "peak_host_bytes": 1, "peak_device_bytes": 0, "val_loss": {loss},'
            ' "sparsity_reached": 0}'
        )
        folder.write(Finished(cell=cell.name))
        others.release(cell.name)

    def silence(self, cell: str) -> None:
        path = Claims(self.path).latest()[cell].path
        os.utime(path, (time.time() - 90, time.time() - 90))


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LOOK", 0.0)


def test_each_cell_is_run_by_one_task(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "m", matrix_record(*(cell_record(name=name) for name in "abc")))
    (one, ones, folder), (two, _, _) = tasks.task("1"), tasks.task("2")
    first, second = one.next([]), two.next([])
    assert first
    assert second
    assert (first.name, second.name) == ("a", "b")
    tasks.finish(first, ones, folder)
    third = two.next([second])
    assert third
    assert third.name == "c"
    assert one.next([]) is None
    assert one.pending([]) == []


def test_a_cell_of_a_task_that_is_gone_is_taken_over_and_one_that_never_gets_on_fails(
    tmp_path: Path,
) -> None:
    tasks = Tasks(tmp_path / "m", matrix_record(cell_record(name="a")))
    for job in map(str, range(sharing._LOSSES)):
        queue, _, folder = tasks.task(job)
        cell = queue.next([])
        assert cell, job
        folder.write(Started(cell="a", step=0))
        tasks.silence("a")
        # Its job is there, so nobody takes the cell; but one waits whether it gets free.
        waiting, those, _ = tasks.task("waiting")
        assert waiting.next([]) is None
        assert those.awaited()
        tasks.gone.add(job)
    queue, _, folder = tasks.task("last")
    assert queue.next([]) is None
    (failed,) = [event for event in folder.journal() if isinstance(event, Failed)]
    assert failed.reason == "its task ended without a further step, 5 times"
    assert queue.pending([]) == []


def test_a_task_waits_until_the_others_are_known_to_be_alive(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "m", matrix_record(cell_record(name="a")))
    queue, _, _ = tasks.task("1")
    assert queue.next([])
    _, twos, _ = tasks.task("2")
    assert twos.awaited()
    path = Claims(tasks.path).latest()["a"].path
    os.utime(path, (time.time() + 3, time.time() + 3))
    twos.refresh(at_once=True)
    assert not twos.awaited()


def tuned() -> MatrixRecord:
    rates = ("1", "2")
    cells = [
        cell_record(
            name=f"r{rate}-{seed}", axes={"learning-rate": rate}, seed=seed, tuning=seed > 1
        )
        for seed in (2, 1)
        for rate in rates
    ]
    tuning = TuningRecord(axis="learning-rate", seeds=(2,), rule="the lowest")
    return matrix_record(*cells, axes={"learning-rate": rates}, tuning=tuning)


def test_rates_are_chosen_once_when_the_last_tuning_cell_has_ended(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "m", tuned())
    (one, ones, first), (two, twos, second) = tasks.task("1"), tasks.task("2")
    a, b = one.next([]), two.next([])
    assert a
    assert b
    tasks.finish(a, ones, first)
    assert one.next([]) is None  # b is not done: no rate yet, but there will be work
    assert one.pending([])
    tasks.finish(b, twos, second)
    cell = two.next([])
    assert cell
    assert cell.name == "r1-1"
    assert one.next([]) is None
    assert one.pending([]) == []
    chosen = [event for event in first.journal() if isinstance(event, Chosen)]
    assert [one.rate for one in chosen[0].rates] == ["1"]
    assert len(chosen) == 1
    # What the first one wrote counts, whatever another would choose.
    other = ChosenRate(group={}, rate="2", losses={})
    assert ones.chosen(lambda: [other]) == list(chosen[0].rates)


def test_results_whose_owner_died_are_recorded_once(tmp_path: Path) -> None:
    tasks = Tasks(tmp_path / "m", matrix_record(cell_record(name="a"), cell_record(name="b")))
    one, ones, folder = tasks.task("1")
    for _ in "ab":
        cell = one.next([])
        assert cell
        if cell.name == "a":
            tasks.finish(cell, ones, folder)
            assert not ones.adopt("a")  # its end is in the journal
            continue
        (folder.run_dir("b")).mkdir(parents=True)
        (folder.run_dir("b") / "summary.json").write_text("{}")
    _, twos, _ = tasks.task("2")
    assert not twos.adopt("b")  # its owner may be about to
    tasks.silence("b")
    tasks.gone.add("1")
    assert twos.adopt("b")
    assert "b" in Claims(tasks.path).held()
