"""The time left, by the last steps of the session, and the share of the device's speed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from gpt2.config.actions import NoActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.model.build import palm_flops
from gpt2.optim.precision import Precision
from gpt2.prune.pruner import Sparsity
from gpt2.run_dir.console import Console
from gpt2.run_dir.folder import RunFolder
from gpt2.training.loop import Parts, Progress, Step
from gpt2.training.metrics import Metrics


def metrics(progress: Progress) -> Metrics:
    folder = cast(RunFolder, SimpleNamespace(tracking=None))
    console = cast(Console, SimpleNamespace(live=False))
    return Metrics(folder, console, cast(Parts, None), progress)


def steps(made: Metrics, progress: Progress, count: int, seconds: float) -> str:
    for _ in range(count):
        progress.step += 1
        progress.elapsed += seconds
        made.after_step()
    return made._left()


def test_the_time_left_is_by_the_last_steps_and_not_before_the_fifth() -> None:
    progress = Progress(1000, None)
    made = metrics(progress)
    assert steps(made, progress, 4, 60.0) == ""
    assert steps(made, progress, 1, 60.0) == "16 h 35 min left"
    # The slow first steps are forgotten.
    assert steps(made, progress, 21, 0.5) == "8 min 07 s left"
    made.restart()  # as after a resume on another machine
    assert made._left() == ""
    assert steps(made, progress, 6, 1.0) == "16 min 08 s left"
    progress.step = 1000
    assert made._left() == "0 s left"


@pytest.mark.parametrize(("steps_", "said"), [(None, "90 s"), (100, "90 s"), (10, "10 s")])
def test_the_nearest_limit_counts(steps_: int | None, said: str) -> None:
    progress = Progress(steps_, 100.0)
    made = metrics(progress)
    assert steps(made, progress, 5, 2.0).replace("1 min 30 s", "90 s") == f"{said} left"
    if steps_ is None:
        assert made._at() == "step 5  "


class _Folder:
    """Keeps the lines of metrics.jsonl."""

    tracking = None

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def record(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("peak", [None, 989.4e12])
def test_mfu_is_palms_share_of_the_stated_peak(peak: float | None) -> None:
    # gpt2 at T = 1024: 124,439,808 parameters, of them 1024 x 768 positions.
    shape = ["--dataset", "text", "--tokenizer", "gpt2", "--model", "gpt2", "--block-size", "1024"]
    config = bind(parse("test", "", shape, NoActions)[0])
    per_token = palm_flops(config.model, 124_439_808)
    assert per_token == 6 * 123_653_376 + 12 * 12 * 768 * 1024
    batches = SimpleNamespace(effective_batch=64, block_size=1024)
    parts = Parts(
        *[None] * 5,  # type: ignore[arg-type]
        precision=Precision("bf16", torch.device("cpu")),
        pruner=cast(Any, SimpleNamespace(sparsity=lambda: Sparsity(0.0, 0.0))),
        batches=cast(Any, batches),
        gradient_accumulation=1,
        grad_clip=1.0,
        flops_per_token=per_token,
        peak_flops=peak,
    )
    shown: list[str] = []
    console = SimpleNamespace(live=False, progress=lambda _, text: shown.append(text))
    folder, progress = _Folder(), Progress(100, None)
    made = Metrics(cast(RunFolder, folder), cast(Console, console), parts, progress)
    progress.step, progress.elapsed = 10, 2.0  # 327,680 tokens a second
    made.step(Step(torch.zeros(()), torch.zeros(()), 1e-3), 3.0)
    (line,) = folder.lines
    if peak is None:
        assert line["mfu"] is None
        assert "MFU" not in shown[0]
    else:
        assert line["mfu"] == pytest.approx(10 * 64 * 1024 / 2.0 * per_token / peak)
        assert "327,680 tokens/s  MFU 28.3%  lr" in shown[0]
