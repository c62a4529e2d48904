"""Axes to cells: what is made of a matrix, what is left out, and what is refused in which words."""

from __future__ import annotations

import ast
import itertools
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE, TRAIN_TREE
from scripts.study.cells import Matrix, expand
from scripts.study.records import CellRecord
from scripts.study.spec import MatrixSpec, add_flags, check_spec, from_config
from scripts.study.spec_yaml import from_yaml
from scripts.study.tuning import choose, choose_rate, mean_losses, rate_for
from tests.support import tiny
from tests.support.small_cells import cell_record

pytestmark = pytest.mark.slow


def asked(tmp_path: Path, *lines: str, flags: str = "") -> MatrixSpec:
    path = tmp_path / "config"
    path.write_text("".join(f"CONFIG_{line}\n" for line in lines))
    found = from_config(path)
    add_flags(found, shlex.split(flags))
    return check_spec(found)


def made(tmp_path: Path, *lines: str, flags: str = "") -> Matrix:
    return expand(asked(tmp_path, *lines, flags=flags))


def labels(matrix: Matrix) -> list[str]:
    return list(dict.fromkeys(cell.label for cell in matrix.cells))


def refusal(tmp_path: Path, *lines: str, flags: str = "") -> str:
    with pytest.raises(UserError) as error:
        made(tmp_path, *lines, flags=flags)
    return "\n".join(error.value.messages)


def test_every_symbol_of_the_menu_is_read() -> None:
    symbols = {name for name in Options(ROOT_TREE).names() if name.startswith("MATRIX_")}
    study = tiny.REPOSITORY / "scripts" / "study"
    trees = [ast.parse((study / name).read_text()) for name in ("spec.py", "slurm/settings.py")]
    texts = {n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    shorter = {s: s.removeprefix("MATRIX_").removeprefix("SLURM_") for s in symbols}
    assert {s for s in symbols if not {s, shorter[s]} & texts} == set()


@pytest.mark.parametrize("choice", ["OPTIMIZER", "PRUNING_METHOD"])
def test_the_help_of_a_list_shows_the_names_that_exist(choice: str) -> None:
    options = Options(ROOT_TREE)
    text = options.symbols[f"MATRIX_{choice}S"].nodes[0].help
    assert set(options.members(choice)) <= set(re.findall(r"[\w-]+", text))
    assert "{" not in text
    assert max(map(len, text.splitlines())) <= 70


def test_dense_runs_are_shared_and_seeds_are_outermost(tmp_path: Path) -> None:
    matrix = made(tmp_path, 'MATRIX_SEEDS="3 1..2"')
    assert labels(matrix) == [
        "adamw-none", "adamw-magnitude-0.5", "adamw-magnitude-0.9",
        "adamwspam-none", "adamwspam-magnitude-0.5", "adamwspam-magnitude-0.9",
    ]  # fmt: skip
    assert [c.seed for c in matrix.cells] == [3] * 6 + [1] * 6 + [2] * 6
    assert matrix.cells[1].name == "adamw-magnitude-0.5-seed3"
    assert (matrix.left_out, matrix.inactive) == ([], {})


@pytest.mark.slow
def test_a_cell_is_what_train_py_would_make_of_its_flags(tmp_path: Path) -> None:
    lines = ('MATRIX_PRUNING_METHODS="none state"', 'MATRIX_AXES="bias=y,n;state-score=coherence"')
    matrix = made(tmp_path, *lines, 'MATRIX_SEEDS="4 5"', "MAX_STEPS=7", 'DATA_DIR="it\'s here"')
    for cell in matrix.cells:
        options, _ = parse("train.py", "", shlex.split(shlex.join(cell.flags)), TrainActions)
        config = bind(options)
        assert config == cell.config
        assert config.train.seed == cell.seed
        assert config.train.max_steps == 7
        assert config.data.data_dir == tiny.REPOSITORY / "it's here"
        assert config.optim.optimizer == cell.axes["OPTIMIZER"]
        assert config.model.bias == (cell.axes["BIAS"] == "y")
        if config.prune:
            assert config.prune.target_sparsity == float(cell.axes["TARGET_SPARSITY"])
            assert config.prune.options.score == "coherence"
    assert len({cell.name for cell in matrix.cells}) == len(matrix.cells) == 2 * 2 * 3 * 2


def test_what_makes_no_sense_is_left_out_and_says_why(tmp_path: Path) -> None:
    matrix = made(
        tmp_path, 'MATRIX_OPTIMIZERS="adamw sgd"', 'MATRIX_PRUNING_METHODS="none, state"',
        'MATRIX_AXES="state-score=fisher,coherence"', 'MATRIX_SPARSITIES="0.5"', 'MATRIX_SEEDS="1"',
        'ADAMW_BETA2="0.9"',
    )  # fmt: skip
    assert labels(matrix) == [
        "adamw-none", "adamw-state-0.5-state-score=fisher", "adamw-state-0.5-state-score=coherence",
        "sgd-none",
    ]  # fmt: skip
    ((label, why),) = matrix.left_out
    assert label == "sgd-state"
    assert "'state' cannot be chosen here: it needs --optimizer adam, adamw" in why
    # An option of one optimizer in .config is no option of the others' cells, and that is said.
    assert matrix.inactive["ADAMW_BETA2"]["sgd-none"].startswith("OPTIMIZER_ADAMW")
    assert "adamw-none" not in matrix.inactive["ADAMW_BETA2"]


@pytest.mark.slow
def test_a_combination_that_contradicts_itself_is_left_out(tmp_path: Path) -> None:
    matrix = made(tmp_path, 'MATRIX_AXES="sparsity-pattern=global,2:4"', 'MATRIX_SEEDS="1"')
    left = [label for label, _ in matrix.left_out]
    assert left == [f"{o}-magnitude-0.9-sparsity-pattern=2:4" for o in ("adamw", "adamwspam")]
    assert "is a --target-sparsity of 0.5" in matrix.left_out[0][1]


def test_methods_cross_patterns(tmp_path: Path) -> None:
    matrix = made(
        tmp_path, 'MATRIX_OPTIMIZERS="adamw"', 'MATRIX_SPARSITIES="0.9"', 'MATRIX_SEEDS="1"',
        'MATRIX_PRUNING_METHODS="none magnitude wanda rigl"',
        'MATRIX_AXES="sparsity-pattern=layer,lamp,global"',
    )  # fmt: skip
    found = {cell.label: cell.config.prune for cell in matrix.cells}
    taken = {
        "magnitude": ["layer", "lamp", "global"],
        "wanda": ["layer", "lamp"],
        "rigl": ["layer"],
    }
    wanted = {"adamw-none"}
    for method, patterns in taken.items():
        for pattern in patterns:
            label = f"adamw-{method}-0.9-sparsity-pattern={pattern}"
            prune = found[label]
            assert prune is not None
            assert (prune.pruning_method, prune.sparsity_pattern) == (method, pattern)
            wanted.add(label)
    assert found.keys() == wanted
    left = dict(matrix.left_out)
    assert left.keys() == {
        f"adamw-{one}-0.9-sparsity-pattern={pattern}"
        for one, pattern in (("wanda", "global"), ("rigl", "lamp"), ("rigl", "global"))
    }


def test_equal_cells_run_once(tmp_path: Path) -> None:
    matrix = made(tmp_path, 'MATRIX_AXES="lr-schedule=linear,linear"', 'MATRIX_SEEDS="1"')
    assert len(matrix.cells) == 6


@pytest.mark.slow
def test_flags_hold_for_every_cell(tmp_path: Path) -> None:
    matrix = made(tmp_path, "MAX_STEPS=5", flags="--max-steps 9 --no-bias --optimizer-name ''")
    assert all(cell.config.train.max_steps == 9 for cell in matrix.cells)
    assert not any(cell.config.model.bias for cell in matrix.cells)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['MATRIX_OPTIMIZERS="adamw sdg"'], "no optimizer 'sdg'; did you mean sgd"),
        (['MATRIX_PRUNING_METHODS="magnitud"'], "did you mean magnitude?"),
        (['MATRIX_AXES="lerning-rate=1"'], "'lerning-rate'; did you mean learning-rate"),
        (['MATRIX_AXES="learning-rate"'], "'learning-rate' is not an axis: write option=value"),
        (['MATRIX_AXES="learning-rate=1e-3,"'], "learning-rate has an empty value"),
        (['MATRIX_AXES="learning-rate=1;learning-rate=2"'], "learning-rate is an axis twice"),
        (['MATRIX_AXES="optimizer=adam"'], "optimizer has a list of its own: MATRIX_OPTIMIZERS"),
        (['MATRIX_AXES="seed=4"'], "seed cannot be an axis"),
        (['MATRIX_AXES="bias=y,maybe"'], "bias is y or n, not 'maybe'"),
        (['MATRIX_AXES="batch-size=4,0"'], "cell adamw-none-batch-size=0: --batch-size: 0 is out"),
        (['MATRIX_SPARSITIES="0.5 1.5"'], "cell adamw-magnitude-1.5: --target-sparsity: 1.5 is"),
        (['MATRIX_AXES="state-score=fisher"'], "the axis state-score has no effect in any cell"),
        (['MATRIX_OPTIMIZERS="sgd"', 'MATRIX_PRUNING_METHODS="state"'], "it needs --optimizer ad"),
        (['MATRIX_OPTIMIZERS="mine:Own"'], "mine:Own is code of your own"),
        (['MATRIX_SEEDS=""'], "an empty matrix: give seeds"),
        (['MATRIX_SEEDS="1 two 9..3"'], "'9..3' is not a seed"),
        (['MATRIX_NAME="../up"'], "'../up' is not a name"),
        (['MATRIX_TIMEOUT="soon"'], "'soon' is not a whole number of at least 0 or auto"),
        (['MATRIX_AXES="learning-rate=1e-3,2e-3"', 'MATRIX_SEEDS="11"'], "seed 11 is reported"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_clear_ones(lines: list[str], said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, *lines)


def test_an_error_names_file_and_line(tmp_path: Path) -> None:
    text = refusal(tmp_path, "BATCH_SIZE=4", 'MATRIX_OPTIMIZERS="adamv"', 'MATRIX_SEEDS="x"')
    assert text.splitlines()[0].startswith(f"{tmp_path}/config:2: CONFIG_MATRIX_OPTIMIZERS: ")
    assert f"{tmp_path}/config:3: CONFIG_MATRIX_SEEDS: " in text


def test_a_flag_that_is_an_axis_is_refused(tmp_path: Path) -> None:
    assert "--optimizer is an axis" in refusal(tmp_path, flags="--optimizer adam")
    assert "--seed cannot be given to a matrix" in refusal(tmp_path, flags="--seed 4")


SPEC = """\
options: {model: custom, n-layer: 1, n-head: 1, n-embd: 8, bias: false, min-lr: 3e-5}
axes:
  optimizer: [adamw, lion]
  learning-rate: [3e-4, 6e-4]
seeds: 1..2
tuning-seeds: [7]
keep: none
"""


def test_a_study_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(SPEC)
    found = check_spec(from_yaml(path))
    assert (found.name, found.seeds, found.tuning_seeds) == ("rates", (1, 2), (7,))
    assert found.base["BIAS"] == "n"
    assert found.base["MIN_LR"] == "3e-5"  # as it stands
    matrix = expand(found)
    assert labels(matrix)[0] == "adamw-learning-rate=3e-4"
    # Where nothing is dense or pruned by an axis, every cell is run on the tuning seed.
    assert [cell.tuning for cell in matrix.cells] == [True] * 4 + [False] * 8


def test_a_file_can_start_from_a_config(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("config: defconfigs/gpt2-shakespeare-matrix-smoke\noptions: {max-steps: 4}\n")
    matrix = expand(check_spec(from_yaml(path)))
    assert len(matrix.cells) == 6
    assert {cell.config.train.max_steps for cell in matrix.cells} == {4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axes: [", ":1: is not YAML: "),
        ("- a\n", ":1: the file must be pairs"),
        ("", "the file must be pairs"),
        (SPEC + "seed: 4\n", ":8: 'seed' is unknown; did you mean seeds"),
        (SPEC + "keep: all\n", ":8: 'keep' is given again"),
        (SPEC + "jobs: many\n", ":8: 'many' is not a whole number of at least 1"),
        (SPEC.replace("lion", "lian"), ":3: no optimizer 'lian'; did you mean lion"),
        (SPEC.replace("n-embd", "n-emb"), ":1: no such option: 'n-emb'; did you mean n-embd"),
        (SPEC.replace("[adamw, lion]", "[[adamw], lion]"), ":3: a plain value is needed here"),
        (SPEC.replace("[adamw, lion]", "{a: b}"), ":3: a plain value is needed here"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        expand(check_spec(from_yaml(path)))
    assert said in "\n".join(error.value.messages)


def tuning_cells(
    **losses: dict[str, list[float]],
) -> tuple[list[CellRecord], dict[str, float]]:
    cells, found = list[CellRecord](), dict[str, float]()
    for optimizer, rates in losses.items():
        for rate, values in rates.items():
            for seed, value in enumerate(values):
                axes = {"optimizer": optimizer, "pruning-method": "none", "learning-rate": rate}
                name = f"{optimizer}{rate}{seed}"
                cells.append(cell_record(name=name, axes=axes, seed=seed, tuning=True))
                found[name] = value
    return cells, found


def test_the_rate_of_the_lowest_mean_is_chosen_for_each_optimizer() -> None:
    bad = float("inf")
    cells, losses = tuning_cells(
        adamw={"1e-3": [2.0, 2.2], "2e-3": [1.0, 2.9], "4e-3": [bad, 0.1]},
        sgd={"1e-1": [2.0], "3e-2": [2.0]},
        lion={"1": [bad]},
    )
    chosen = choose(cells, losses)
    rates = {one.group["optimizer"]: one.rate for one in chosen}
    assert rates == {"adamw": "2e-3", "sgd": "3e-2", "lion": None}
    assert chosen[0].losses["4e-3"] is None
    axes = {"optimizer": "adamw", "pruning-method": "state", "state-score": "fisher"}
    assert rate_for(axes, chosen) == "2e-3"


def test_a_rate_that_lacks_a_run_or_has_no_finite_loss_is_out() -> None:
    nan = float("nan")
    assert mean_losses({"1": {11: 1.0}, "2": {11: 2.0, 12: 4.0}}) == {"1": math.inf, "2": 3.0}
    assert choose_rate({"1": {11: nan, 12: 0.1}, "2": {11: 2.0, 12: 2.0}}) == "2"
    assert choose_rate({"2e-3": {11: 1.0}, "1e-3": {11: 1.0}}) == "1e-3"
    assert choose_rate({"1": {11: nan}}) is None
    assert choose_rate({}) is None


@pytest.mark.slow
def test_tuning_runs_are_dense_and_come_first(tmp_path: Path) -> None:
    lines = ('MATRIX_AXES="learning-rate=1e-3,2e-3"', 'MATRIX_SEEDS="1"')
    cells = made(tmp_path, *lines).cells
    first = list(itertools.takewhile(lambda cell: cell.tuning, cells))
    assert {cell.seed for cell in first} == {11, 12, 13}
    assert {cell.axes["PRUNING_METHOD"] for cell in first} == {"none"}
    assert len(first) == 2 * 2 * 3
    assert not any(cell.tuning for cell in cells[len(first) :])
    plain = made(tmp_path, *lines, 'MATRIX_TUNING_SEEDS=""').cells
    assert [cell.name for cell in plain] == [cell.name for cell in cells[len(first) :]]


@pytest.mark.slow
def test_cells_of_one_seed_start_alike_and_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2.data.batches import TrainBatches
    from gpt2.session import session
    from gpt2.train import main

    data = tiny.make_data(tmp_path / "data")
    seen: list[Any] = []
    original, build = TrainBatches.train, session.build_model

    def train(self: TrainBatches, step: int, micro: int) -> Any:
        found = original(self, step, micro)
        seen.append((step, micro, *(part.tolist() for part in found)))
        return found

    def build_model(*arguments: Any) -> Any:
        model = build(*arguments)
        seen.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return model

    monkeypatch.setattr(TrainBatches, "train", train)
    monkeypatch.setattr(session, "build_model", build_model)
    flags = [*tiny.flags(data, tmp_path / "run")[:6], *tiny.SHAPE, "--block-size", "8"]
    more = "--batch-size 4 --max-steps 12 --device cpu --num-threads 1 --sample-tokens 0"
    lines = ('MATRIX_SEEDS="1 2"', 'MATRIX_SPARSITIES="0.5"')
    matrix = made(tmp_path, *lines, flags=f"{shlex.join(flags)} {more}")
    runs = {}
    for cell in matrix.cells:
        seen.clear()
        assert main([*cell.flags, "--run-dir", str(tmp_path / cell.name)]) == 0
        runs[cell.name] = list(seen)
    first = runs["adamw-none-seed1"]
    assert len(first) == 1 + 12
    for name, found in runs.items():
        same = [found[0][key].equal(value) for key, value in first[0].items()]
        moved = [not value.eq(value.flatten()[0]).all() for value in first[0].values()]
        if name.endswith("seed1"):
            assert all(same)
            assert found[1:] == first[1:]
        else:  # what is drawn is drawn anew
            assert [not s for s in same] == moved
            assert all(a != b for a, b in zip(found[1:], first[1:], strict=True))


def test_the_tree_of_train_py_knows_no_matrix() -> None:
    assert not [name for name in Options(TRAIN_TREE).names() if name.startswith("MATRIX_")]
