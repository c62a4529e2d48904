"""Every optimizer that a library has, against the table of those admitted: make check-optimizers.

No part of `make check`: it takes minutes. At its end, when all libraries are installed and all is
right, it writes docs/optimizers.md.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch

from gpt2.config.library import LIBRARIES
from gpt2.optim.libraries.compatibility import COMPATIBLE, REFUSED
from gpt2.optim.libraries.lookup import classes, find
from gpt2.planning.optimizer_list import choices, problem
from tests.batteries.test_conformance import BUILT_IN, subject, table_agrees
from tests.conftest import REPOSITORY
from tests.support.conformance import (
    CHECKS,
    Subject,
    descending_rate,
    draws_random_numbers,
    kind_of_decay,
)

# Some compile their steps, which takes minutes for each of these tests: here they run as written.
torch.compiler.set_stance("force_eager")

PRESENT = [prefix for prefix in LIBRARIES if problem(prefix) is None]
NAMES = [f"{prefix}:{name}" for prefix in PRESENT for name in sorted(COMPATIBLE[prefix])]
#: The rate at which each descends and the decay that was measured, by name.
MEASURED: dict[str, tuple[float, str]] = {}

PAGE = """# Optimizers

Every optimizer that `--optimizer` accepts. `make check-optimizers` measured this page on {date}
with torch {torch}, {versions}.

All of them passed the tests of `tests/support/conformance.py` on a tiny GPT on a CPU:

- they lower the loss, change nothing at a learning rate of 0, and follow the schedule;
- they update the tied matrix once, and decay matrices and embeddings but not vectors;
- they stay finite in fp32, bf16 and fp16 with loss scaling;
- a skipped step leaves no trace, and a resume is bit-exact.

Optimizers that compile their steps (`ao:`) ran uncompiled here. The columns:

- State: bytes per parameter after one step, on a model of half a million parameters.
- Weight decay: `decoupled` subtracts rate x decay x weight; `L2` adds decay x weight to the
  gradient; with `none` and `own` (another kind) `--weight-decay` must be 0.
- Descends at: the first of 0.01, 0.001, 0.1, 1, 0.03, 10, 100 at which 60 steps lower the loss of
  the tiny problem by a tenth. It shows the order of magnitude and is not a recommendation.
  A library optimizer has no default rate: `--optimizer po:lion --learning-rate 1e-4`.
- Random: its step draws random numbers, so it trains on one rank only.

On a GPU, `nadam`, `radam`, `rmsprop`, `adagrad`, `adamax`, a sharded `sgd` and every library
optimizer wait for the device once per step: the host reads whether to skip the step, since they
cannot skip it on the device. The other built-in optimizers read nothing back
(`tests/optim/test_waits.py` counts it, without a GPU).

| optimizer | state | weight decay | descends at | |
|---|---|---|---|---|
{admitted}

Unavailable:

| optimizer | why |
|---|---|
{refused}
"""


def quantised(name: str) -> Subject:
    """The optimizer `name`, on a wider model where its library keeps large state in 8 bits."""
    wide = name.partition(":")[0] in ("bnb", "ao")
    return Subject(subject(name).build, 64 if wide else 16)


@pytest.mark.parametrize("name", NAMES)
def test_conforms(name: str, tmp_path: Path) -> None:
    tested = quantised(name)
    for check in CHECKS:
        check(tested, tmp_path / check.__name__)
    MEASURED[name] = (descending_rate(tested), decay_of(tested))
    assert table_agrees(name, MEASURED[name][1])
    # One may draw under other arguments alone.
    assert find(name).entry.random or not draws_random_numbers(tested)


def decay_of(tested: Subject) -> str:
    try:
        return kind_of_decay(tested)
    except (RuntimeError, ValueError, AssertionError):  # what knows no float64
        return kind_of_decay(tested, torch.float32)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str) -> None:
    MEASURED[name] = (descending_rate(subject(name)), decay_of(subject(name)))
    assert MEASURED[name][0] > 0.0


@pytest.mark.parametrize("prefix", PRESENT)
def test_the_table_knows_every_name(prefix: str) -> None:
    assert COMPATIBLE[prefix].keys() | REFUSED[prefix].keys() == classes(prefix).keys()


def test_the_page_is_written() -> None:
    missing = [problem(prefix) for prefix in LIBRARIES if prefix not in PRESENT]
    if missing or MEASURED.keys() != {*NAMES, *BUILT_IN}:
        pytest.skip(f"docs/optimizers.md stays as it is: {missing or 'not all were measured'}")
    text = PAGE.format(
        date=datetime.date.today().isoformat(),
        torch=metadata.version("torch"),
        versions=", ".join(
            f"{lib.module} {metadata.version(lib.module)}" for lib in LIBRARIES.values()
        ),
        admitted="\n".join(admitted_rows()),
        refused="\n".join(
            f"| `{prefix}:{name}` | {reason} |"
            for prefix, names in REFUSED.items()
            for name, reason in sorted(names.items())
        ),
    )
    (REPOSITORY / "docs" / "optimizers.md").write_text(text, encoding="utf-8")


def admitted_rows() -> Iterator[str]:
    for choice in choices():
        rate, measured = MEASURED[choice.name]
        entry = find(choice.name).entry if ":" in choice.name else None
        decay = entry.decay if entry else measured
        if entry and entry.note:
            decay += f": it decays {entry.note}"
        random = "random" if entry and entry.random else ""
        state = f"{choice.state_bytes:.2f}"
        yield f"| `{choice.name}` | {state} | {decay} | {rate:g} | {random} |"
