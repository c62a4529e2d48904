"""The statistics of the report, compared with definitions, tables, other functions and draws."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gpt2.config.records import from_json
from gpt2.run_dir.records import RunRecord, Summary
from scripts.reports import comparisons
from scripts.reports.comparisons import Table, tables_of
from scripts.reports.rows import rows_of
from scripts.reports.runs import Run
from scripts.reports.statistics import detectable, holm, interval, p_value, power
from tests.support.synthetic import METHODS

#: Quantiles 0.975 of Student's t as printed in textbooks, by degrees of freedom.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 9: 2.262}


@pytest.mark.parametrize("freedom", PRINTED)
def test_the_interval_is_the_textbooks(freedom: int) -> None:
    values = [float((3 * n) % 7) for n in range(freedom + 1)]
    found = interval(values)
    mean = sum(values) / len(values)
    deviation = (sum((v - mean) ** 2 for v in values) / freedom) ** 0.5
    reach = PRINTED[freedom] * deviation / len(values) ** 0.5
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(mean)
    assert found.high - found.mean == pytest.approx(reach, rel=2e-4)
    assert found.mean - found.low == pytest.approx(reach, rel=2e-4)


def test_one_number_has_no_interval() -> None:
    found = interval([2.0])
    assert (found.mean, found.low, found.high, found.deviation) == (2.0, None, None, None)


def test_the_p_value_is_that_of_the_paired_t_test() -> None:
    rng = random.Random(1)
    for count in (2, 3, 5, 12):
        a = [rng.gauss(0, 1) for _ in range(count)]
        b = [value + rng.gauss(0.3, 0.4) for value in a]
        expected = stats.ttest_rel(a, b).pvalue
        assert p_value([x - y for x, y in zip(a, b, strict=True)]) == pytest.approx(expected)


def test_equal_differences_leave_no_doubt() -> None:
    assert p_value([0.0, 0.0, 0.0]) == 1.0
    assert p_value([0.5, 0.5, 0.5]) == 0.0
    with pytest.raises(ValueError, match="one difference"):
        p_value([0.5])


def test_holm_is_the_example_by_hand() -> None:
    # 0.005 x 4; 0.01 x 3; 0.03 x 2; 0.04 x 1 is less than the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_procedure_rejects() -> None:
    """Against the procedure as it is defined: walk up the ordered p values until one fails."""
    rng = random.Random(2)
    for _ in range(200):
        p_values = [rng.random() ** 4 for _ in range(rng.randint(1, 8))]
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            order = sorted(range(len(p_values)), key=lambda place: p_values[place])
            for rank, place in enumerate(order):
                if p_values[place] > level / (len(p_values) - rank):
                    break
                rejected.add(place)
            corrected = holm(p_values)
            assert {n for n, p in enumerate(corrected) if p <= level} == rejected


def test_the_detectable_difference_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(3)
    for count, comparisons_ in ((5, 1), (5, 6), (3, 1)):
        size = detectable(0.2, count, comparisons_)
        assert size is not None
        draws = rng.normal(size, 0.2, (20_000, count))
        p = stats.ttest_1samp(draws, 0.0, axis=1).pvalue
        assert float((p < 0.05 / comparisons_).mean()) == pytest.approx(0.8, abs=0.01)


def test_power_is_the_level_where_there_is_nothing() -> None:
    assert power(0.0, 1.0, 5, 0.05) == pytest.approx(0.05, abs=1e-6)


def test_one_seed_detects_nothing() -> None:
    assert detectable(None, 1, 3) is None


CONDITIONS = {
    "code": "c",
    "precision": "fp32",
    "compiled": False,
    "effective_batch": 8,
    "data": {"data_hash": "a"},
}


def run(optimizer: str, method: str, seed: int, loss: float) -> Run:
    reached = 0.0 if method == "none" else 0.5
    options = {"OPTIMIZER": optimizer, "PRUNING_METHOD": method, "SEED": str(seed)}
    summary: dict[str, Any] = {
        "val_loss": loss, "val_perplexity": 1.0, "steps": 9, "tokens": 9,
        "sparsity_asked": reached, "sparsity_reached": reached, "sparsity_whole": reached,
    }  # fmt: skip
    record = from_json(RunRecord, CONDITIONS)
    return Run(Path(f"{optimizer}-{method}-{seed}"), options, record, from_json(Summary, summary))


def drawn(rng: random.Random, effect: float = 0.0, methods: tuple[str, ...] = METHODS) -> Table:
    """Draw a table: every seed shifts all rows alike, every run scatters; state has the effect."""
    runs = []
    for seed in range(1, 6):
        shift = rng.gauss(0.0, 0.1)
        for optimizer, method in itertools.product(("adamw", "lion"), methods):
            loss = 2.0 + shift + rng.gauss(0.0, 0.01) + (effect if method == "state" else 0.0)
            runs.append(run(optimizer, method, seed, loss))
    return tables_of(rows_of(runs))[-1]


@pytest.fixture
def no_detectable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time and is not looked at here."""
    monkeypatch.setattr(comparisons, "detectable", lambda *_: None)


def claims(table: Table) -> set[str]:
    return {c.row.label for c in table.comparisons if c.outcome in ("better", "worse")}


@pytest.mark.slow
def test_nothing_is_claimed_where_there_is_nothing(no_detectable: None) -> None:
    """One comparison errs in one table of twenty, and so does a table of many, by Holm."""
    rng = random.Random(4)
    single = sum(bool(claims(drawn(rng, methods=("none",)))) for _ in range(200))
    assert 3 <= single <= 19  # 10 expected, binomial
    table = drawn(rng)
    assert len(table.comparisons) == 2 * (3 + 2)
    families = sum(bool(claims(drawn(rng))) for _ in range(200))
    assert families <= 17  # at most 10 expected: the comparisons of a table share their controls


def test_a_planted_effect_is_found(no_detectable: None) -> None:
    rng = random.Random(5)
    found = [claims(drawn(rng, effect=-0.1)) for _ in range(20)]
    assert all({"adamw + state", "lion + state"} <= names for names in found)
    # Unpaired, the scatter of the seeds would hide it.
    table = drawn(rng, effect=-0.1)
    spread = [row.loss.deviation or 0.0 for row in table.rows]
    assert min(spread) > 0.03
    for c in table.comparisons:
        if c.row.series == "state":
            assert c.outcome == "better"
            assert c.difference is not None
            assert c.difference.mean == pytest.approx(-0.1, abs=0.03)


def test_too_few_seeds_claim_nothing_however_clear() -> None:
    runs = [
        run("adamw", method, seed, 2.0 + seed / 10 + (0.5 if method == "state" else 0.0))
        for seed in range(1, 5)
        for method in ("none", "state")
    ]
    (found,) = tables_of(rows_of(runs))[-1].comparisons
    assert (found.outcome, found.p, found.corrected) == ("too few", None, None)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.5)


def test_what_four_seeds_could_have_shown_is_said() -> None:
    runs = [
        run("adamw", method, seed, 2.0 + seed**2 / 100 * (1 if method == "state" else -1))
        for seed in range(1, 5)
        for method in ("none", "state")
    ]
    (found,) = tables_of(rows_of(runs))[-1].comparisons
    differences = [2 * seed**2 / 100 for seed in range(1, 5)]
    expected = detectable(float(np.std(differences, ddof=1)), 4, 1)
    assert found.detectable == pytest.approx(expected)


def test_equal_runs_are_called_equal() -> None:
    runs = [run(o, "none", seed, 2.0 + seed) for seed in range(1, 6) for o in ("adamw", "lion")]
    (found,) = tables_of(rows_of(runs))[0].comparisons
    assert found.outcome == "equal"
