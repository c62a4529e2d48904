"""Zeros that a model starts with are kept: exactly, under every optimizer, over kills and ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2 import export
from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.prune.static import KeptPruner
from scripts.reports.option_values import method_of, of_pruning
from tests.machine.test_ranks import train_ranks
from tests.prune.test_pruner import EVERY_OPTIMIZER, STEPS, one_step, optimizer_of
from tests.run_dir.test_resume import assert_same, train_killed
from tests.support import tiny
from tests.support.pruned import setting_of, small_gpt

EMBEDDING = "transformer.wte.weight"


def with_zeros(share: float, *names: str) -> Any:
    """A small model whose matrices have zeros in drawn places; `names` only, if there are any."""
    model = small_gpt()
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.prunable("all").items():
        if name in names or (not names and name != EMBEDDING):
            weight.data[torch.rand(weight.shape, generator=generator) < share] = 0.0
    return model


def kept(model: Any, optimizer: Any = None) -> KeptPruner:
    return KeptPruner(setting_of(model, optimizer, weights=model.prunable("all")))


@EVERY_OPTIMIZER
def test_every_optimizer_keeps_the_zeros_and_moves_the_rest(optimizer: str) -> None:
    model = with_zeros(0.7)
    chosen = optimizer_of(optimizer, model)
    pruner = kept(model, chosen)
    before = {name: weight.detach().clone() for name, weight in model.prunable("all").items()}
    for step in range(STEPS):
        one_step(pruner, model, chosen, step)
        for name, weight in model.prunable("all").items():
            assert torch.equal(weight == 0.0, before[name] == 0.0), (name, step)
    for name, weight in model.prunable("all").items():
        live = before[name] != 0.0
        assert torch.all(weight[live] != before[name][live])
        for held in chosen.state[weight].values():
            if isinstance(held, Tensor) and held.shape == weight.shape:
                assert torch.all(held[~live] == 0.0)
    pruner.verify()


def test_shares_are_of_the_matrices_that_a_method_would_have_pruned() -> None:
    model = with_zeros(0.7)
    blocks = model.prunable("blocks")
    zeros = sum(int((weight == 0.0).sum()) for weight in blocks.values())
    found = kept(model).sparsity()
    assert found.reached == zeros / sum(weight.numel() for weight in blocks.values())
    assert found.asked == found.reached
    assert found.final
    assert found.whole == zeros / model.parameter_count()
    assert EMBEDDING not in found.layers
    assert kept(with_zeros(0.5, EMBEDDING)).sparsity().layers[EMBEDDING] > 0.4


def test_masks_come_back_over_weights_that_have_zeros_of_their_own() -> None:
    model = with_zeros(0.7)
    state = kept(model).state()
    again = with_zeros(0.3)  # what is in memory before the checkpoint is
    pruner = kept(again)
    again.load_state_dict(model.state_dict())
    pruner.load(state)
    assert all(torch.equal(state[name], value) for name, value in pruner.state().items())
    pruner.verify()
    # A count that the masks do not have, and a zero that became a number.
    with pytest.raises(UserError, match="contradicts itself: its masks prune"):
        kept(again).load({**state, "zeros": state["zeros"] + 1})
    weight = next(iter(again.prunable("blocks").values()))
    weight.data[weight == 0.0] = 1.0
    with pytest.raises(UserError, match="are not zero at the end of the run"):
        pruner.verify()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pruned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "pruned"
    assert tiny.train(data, run, "--max-steps", "4") == Exit.OK
    tiny.prune(run, 0.7)
    return run


def weights(run: Path) -> dict[str, Tensor]:
    found = store.load_last(run / "checkpoints", print)
    assert found is not None
    return {name: tensor for name, tensor in found.model.items() if ".c_" in name}


def assert_kept(run: Path, start: Path) -> None:
    before, after = weights(start), weights(run)
    for name in before:
        if name.endswith("weight"):
            assert torch.equal(before[name] == 0.0, after[name] == 0.0), name
            assert not torch.equal(before[name], after[name])


KEEP = ("--keep-sparsity", "--max-steps", "8", "--checkpoint-interval", "1", "--dropout", "0.1")


@pytest.mark.slow
def test_a_run_keeps_them_and_says_so(
    data: Path, pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--run", str(pruned), "--format", "sparse"]) == Exit.OK
    for number, start in enumerate((pruned, pruned / "export" / "sparse")):
        run = tmp_path / f"run{number}"
        capsys.readouterr()
        assert tiny.train(data, run, "--init-from", str(start), *KEEP) == Exit.OK
        said = capsys.readouterr()
        assert "zeros kept: 70.0" in said.out
        assert "warning" not in said.err
        assert_kept(run, pruned)
        summary = json.loads((run / "summary.json").read_text())
        assert summary["sparsity_reached"] == pytest.approx(0.7, abs=1e-3)
        assert all(line["sparsity"] == summary["sparsity_reached"] for line in tiny.metrics(run))


@pytest.mark.slow
def test_it_resumes_to_the_same_bits(
    data: Path, pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--init-from", str(pruned), *KEEP, "--gradient-accumulation", "2")
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    for step in (1, 5):
        run = tmp_path / f"killed-{step}"
        train_killed(monkeypatch, step, data, run, *more)
        assert tiny.train(data, run, *more) == Exit.OK
        assert_same(run, tmp_path / "whole")
    assert_kept(tmp_path / "whole", pruned)


@pytest.mark.slow
def test_ranks_that_hold_parts_keep_them(data: Path, pruned: Path, tmp_path: Path) -> None:
    more = ("--init-from", str(pruned), "--keep-sparsity", "--max-steps", "4", "--shard", "fsdp")
    done = train_ranks(data, tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    assert_kept(tmp_path / "run", pruned)


@pytest.mark.slow
def test_what_it_cannot_be_used_with(data: Path, pruned: Path, tmp_path: Path) -> None:
    def said(*more: str) -> str:
        with pytest.raises(UserError) as caught:
            tiny.train(data, tmp_path / "run", "--max-steps", "1", *more)
        assert caught.value.code == Exit.CONFIG
        assert not (tmp_path / "run").exists()
        return "\n".join(caught.value.messages)

    keep = ("--keep-sparsity", "--init-from", str(pruned))
    assert "--keep-sparsity has no effect here: it needs --init-from" in said("--keep-sparsity")
    other = said(*keep, "--pruning-method", "magnitude")
    assert "--keep-sparsity has no effect here: it needs --pruning-method none" in other
    dense = tmp_path / "dense"
    assert tiny.train(data, dense, "--max-steps", "1") == Exit.OK
    assert f"--keep-sparsity: {dense} has no zeros" in said(
        "--keep-sparsity", "--init-from", str(dense)
    )
    # The way out that it names.
    assert tiny.train(data, tmp_path / "a", "--max-steps", "1", *keep) == Exit.OK
    plain = ("--init-from", str(dense), "--max-steps", "1")
    assert tiny.train(data, tmp_path / "b", *plain) == Exit.OK


def test_a_report_takes_it_for_a_pruned_row() -> None:
    assert method_of({"PRUNING_METHOD": "none", "KEEP_SPARSITY": "y"}) == "kept"
    assert method_of({"PRUNING_METHOD": "none"}) == method_of({}) == "none"
    assert method_of({"PRUNING_METHOD": "rigl"}) == "rigl"
    assert of_pruning("KEEP_SPARSITY")
