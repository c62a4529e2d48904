"""A metrics.jsonl that is read while it is written, cut, replaced and removed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gpt2.run_dir.folder import RunFolder
from gpt2.run_dir.follow import Follower


def line(step: int, **more: object) -> str:
    return json.dumps({"step": step, "loss": 1.0 / step, "elapsed": 2.0 * step, **more}) + "\n"


def test_each_look_reads_what_is_new_and_no_half_line(tmp_path: Path) -> None:
    follower, file = Follower(tmp_path), tmp_path / "metrics.jsonl"
    assert follower.look() == (False, [])
    file.write_text(line(1) + line(2) + '{"step": 3, "lo')
    anew, lines = follower.look()
    assert anew
    assert [one["step"] for one in lines] == [1, 2]
    assert follower.look() == (False, [])
    with file.open("a") as more:
        more.write('ss": 0.25}\nno JSON\n' + line(4))
    anew, lines = follower.look()
    assert not anew
    assert [one["step"] for one in lines] == [3, 4]
    assert (follower.step, follower.loss) == (4, 0.25)


def test_a_resume_cuts_the_file_and_a_folder_may_vanish(tmp_path: Path) -> None:
    follower, folder = Follower(tmp_path), RunFolder(tmp_path)
    for step in range(1, 6):
        folder.record({"step": step, "loss": 1.0})
    assert len(follower.look()[1]) == 5
    folder.cut_metrics(3, evaluated=True)
    folder.record({"step": 4, "val_loss": 0.5})
    anew, lines = follower.look()
    assert anew
    assert [one["step"] for one in lines] == [1, 2, 3, 4]
    assert follower.val_loss == 0.5
    folder.close()
    (tmp_path / "metrics.jsonl").unlink()
    assert follower.look() == (True, [])
    assert (follower.step, follower.loss) == (0, None)
    assert follower.look() == (False, [])


def test_a_number_that_was_not_finite_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null, "tokens_per_second": 9}\n')
    follower = Follower(tmp_path)
    follower.look()
    assert (follower.step, follower.loss, follower.tokens_per_second) == (1, None, 9.0)


def test_time_left_is_by_the_last_steps_and_the_nearer_limit(tmp_path: Path) -> None:
    now = time.time()
    slow_then_fast = [line(step, elapsed=100.0 + step, time=now) for step in range(10, 20)]
    (tmp_path / "metrics.jsonl").write_text(
        line(1, elapsed=90.0, time=now) + "".join(slow_then_fast)
    )
    follower = Follower(tmp_path)
    follower.look()
    assert follower.seconds_left(119, None) == pytest.approx(100.0, abs=2.0)
    assert follower.seconds_left(None, 129.0) == pytest.approx(10.0, abs=2.0)
    assert follower.seconds_left(119, 129.0) == pytest.approx(10.0, abs=2.0)
    assert follower.seconds_left(19, None) == 0.0
    assert follower.seconds_left(None, None) is None


def test_memory_is_the_devices_where_there_is_one(tmp_path: Path) -> None:
    sizes = {"peak_host_bytes": 5, "peak_device_bytes": 0}
    (tmp_path / "metrics.jsonl").write_text(line(1, **sizes))
    follower = Follower(tmp_path)
    follower.look()
    assert follower.memory == 5
    (tmp_path / "metrics.jsonl").write_text(
        line(1, **sizes) + line(2, **sizes | {"peak_device_bytes": 7})
    )
    follower.look()
    assert follower.memory == 7
