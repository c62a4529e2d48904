"""The bench of pruned runs: both sides compute the same, and the words follow from the numbers.

How fast anything is, no test says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass

from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import MachineConfig
from gpt2.weights.trained import load_trained
from scripts import bench
from scripts.benchmark import sparse as bench_sparse
from scripts.benchmark import sparse_layers
from tests.support import tiny

CPU = MachineConfig(
    device="cpu",
    device_index=None,
    shard="none",
    compile=False,
    deterministic=False,
    num_threads=1,
    host_memory_limit=None,
    hang_timeout=None,
)
QUICK = ("--steps", "1", "--warmup", "1", "--repeats", "3")
WIDE = ("--n-embd", "64")  # what 2:4 kernels need


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert tiny.train(data, path, "--max-steps", "2") == Exit.OK
    tiny.prune(path, 0.75)
    return path


@pytest.fixture(scope="module")
def patterned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "patterned"
    assert tiny.train(data, path, "--max-steps", "1", *WIDE) == Exit.OK
    tiny.prune_two_of_four(path)
    return path


def test_text_that_grows_takes_no_kernel_with_a_plan_for_each_length() -> None:
    seen: list[bool] = []

    class Model:
        config = SimpleNamespace(n_layer=1)

        def logits(self, *_: object) -> None:
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())

    before = torch.backends.cuda.cudnn_sdp_enabled()
    model: Any = Model()
    assert bench_sparse.write_one(model, torch.zeros((1, 3), dtype=torch.int64)) == 3
    assert seen == [False] * 3
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("bias", [True, False])
def test_csr_computes_what_the_dense_layer_computes(bias: bool) -> None:
    torch.manual_seed(2)
    layer = nn.Linear(12, 20, bias=bias)
    with torch.no_grad():
        layer.weight[torch.rand(20, 12) < 0.8] = 0.0
    sparse = sparse_layers.CsrLinear(layer)
    assert sparse.weight.layout == torch.sparse_csr
    assert sparse.weight.values().numel() == int((layer.weight != 0.0).sum())
    for shape in ((12,), (1, 12), (3, 5, 12), (2, 100, 12)):
        x = torch.randn(shape)
        torch.testing.assert_close(sparse(x), layer(x), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        ([[1, 0, 2, 0]], True),
        ([[1, 0, 2, 3]], False),
        ([[0, 0, 0, 0, 1, 1, 0, 0]], True),
        ([[0, 0, 1, 1, 1, 0, 0, 0]], True),
        ([[0, 1, 1, 1, 0, 0, 0, 0]], False),
        ([[1, 0], [0, 0]], False),  # a group is four of one row
    ],
)
def test_two_of_four(rows: list[list[int]], right: bool) -> None:
    assert sparse_layers.is_two_of_four(torch.tensor(rows).float()) is right


def test_matrices_with_zeros_become_sparse_and_no_others(run: Path) -> None:
    dense = load_trained(run, False, CPU).model
    with torch.no_grad():
        dense.get_submodule("transformer.h.0.mlp.c_fc").weight.fill_(0.1)  # type: ignore[operator]
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    pruned = sparse_layers.pruned_layers(dense)
    assert len(pruned) == 7
    assert sparse_layers.sparsity(pruned) == 0.75
    sparse = sparse_layers.with_sparse_layers(dense, "csr")
    kinds = {name: type(m).__name__ for name, m in sparse.named_modules() if name in pruned}
    assert set(kinds.values()) == {"CsrLinear"}
    assert isinstance(sparse.get_submodule("transformer.h.0.mlp.c_fc"), nn.Linear)
    assert all(torch.equal(dense.state_dict()[name], before[name]) for name in before)


def test_the_bytes_in_memory(run: Path) -> None:
    dense = load_trained(run, False, CPU).model
    names = {"transformer.h.0.mlp.c_fc"}
    sparse = sparse_layers.with_sparse_layers(dense, "csr")
    count = 16 * 64
    assert sparse_layers.matrix_bytes(dense, names) == 4 * count
    # A value and a column for each entry, and where each row begins.
    assert sparse_layers.matrix_bytes(sparse, names) == (4 + 4) * count // 4 + 4 * (64 + 1)


@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor")
def test_the_bytes_of_a_two_of_four_matrix() -> None:
    weight = torch.tensor([1.0, 0.0, 0.0, 2.0]).tile(32, 16).to(torch.bfloat16)
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    model = nn.Sequential(nn.Linear(64, 32, bias=False))
    tensor = SparseSemiStructuredTensorCUTLASS(weight.shape, packed, meta, None, None, None)
    model[0].weight = nn.Parameter(tensor, requires_grad=False)
    held = sparse_layers.matrix_bytes(model, {"0"})  # type: ignore[arg-type]
    # Half of the values, and for each of them 2 bits.
    assert held == 2 * weight.numel() * (1 / 2 + 1 / 16)


def test_another_model_is_refused(run: Path) -> None:
    dense = load_trained(run, False, CPU).model
    ids = torch.zeros(2, tiny.BLOCK, dtype=torch.long)
    sparse_layers.check_same(dense, copy.deepcopy(dense), ids)
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other.transformer.h[1].mlp.c_proj.weight[0] += 0.1  # type: ignore[operator,union-attr]
    with pytest.raises(UserError, match=r"computes something else.*nothing was measured"):
        sparse_layers.check_same(dense, other, ids)


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([1.9, 2.0, 2.1, 0.5], "sparse is 1.95 times as fast"),
        ([0.5, 0.4, 0.5, 0.6], "no speed-up: sparse takes 2.00 times as long"),
        ([0.9, 1.1, 1.2, 0.8], "no speed-up: no difference beyond that of one turn from another"),
        ([1.0, 1.0, 1.0], "no speed-up: no difference beyond that of one turn from another"),
        ([3.0], "sparse is 3.00 times as fast"),
    ],
)
def test_the_verdict_in_words(ratios: list[float], words: str) -> None:
    assert bench_sparse.verdict(ratios) == words


@pytest.mark.parametrize(
    ("batch", "one", "words"),
    [
        (2.0, 2.0, "a speed-up, read at once and written token by token."),
        (2.0, 0.5, "a speed-up only for text read at once."),
        (0.5, 2.0, "a speed-up only for text written token by token."),
        (0.5, 1.0, "no speed-up on this machine; what the zeros save is disk (export.py)."),
    ],
)
def test_the_verdict_over_all(batch: float, one: float, words: str) -> None:
    cases = {
        name: {"verdict": bench_sparse.verdict([ratio])}
        for name, ratio in (("batch", batch), ("one", one))
    }
    assert bench_sparse.overall(cases) == words


def measured(run: Path, folder: Path, *more: str) -> dict[str, Any]:
    arguments = ["--sparse", str(run), *QUICK, "--json", str(folder / "all.json")]
    assert bench.main([*arguments, "--", *(more or ("--num-threads", "1"))]) == Exit.OK
    found: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return found


def test_a_run_is_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = measured(run, tmp_path, "--device", "cpu", "--num-threads", "1")
    said = capsys.readouterr().out
    assert (report["form"], report["two_of_four"], report["matrices"]) == ("csr", False, 8)
    assert report["sparsity"] == 0.75
    assert list(report["cases"]) == ["batch", "one"]
    for case in report["cases"].values():
        assert list(case["tokens_per_second"]) == ["dense", "csr"]
        assert case["verdict"] in said
    assert said.rstrip().splitlines()[-1] == f"Verdict: {bench_sparse.overall(report['cases'])}"
    for words in ("8 matrices with 75.00% zeros", "float32", "These zeros are not 2:4"):
        assert words in said


def test_a_cpu_says_that_it_has_no_two_of_four(
    patterned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = measured(patterned, tmp_path, "--device", "cpu", "--num-threads", "1")
    assert (report["form"], report["two_of_four"]) == ("csr", True)
    assert "2:4 was not measured: a CPU cannot use it" in capsys.readouterr().out


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_measures_two_of_four(patterned: Path, tmp_path: Path) -> None:
    report = measured(patterned, tmp_path, "--device", "cuda")
    assert (report["form"], report["dtype"]) == ("2:4", "bfloat16")
    sizes = report["matrix_bytes"]
    assert sizes["2:4"] == pytest.approx(0.5625 * sizes["dense"], rel=0.01)


def test_where_zeros_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = bench_sparse.choose_device
    assert choose("cpu", True).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert choose("auto", True).type == "cuda"
    assert choose("auto", False).type == "cpu"
    assert choose("cuda", True).type == "cuda"
    with pytest.raises(UserError, match=r"--device cuda: .* these zeros are not 2:4; use --device"):
        choose("cuda", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (7, 5))
    assert choose("auto", True).type == "cpu"
    with pytest.raises(UserError, match=r"--device cuda: .* not an NVIDIA GPU from Ampere on"):
        choose("cuda", True)


def test_two_of_four_needs_shapes_that_its_kernels_take(run: Path) -> None:
    dense = load_trained(run, False, CPU).model
    with pytest.raises(UserError, match=r"c_attn is 48 x 16; 2:4 kernels need rows in multiples"):
        sparse_layers.with_sparse_layers(dense, "2:4")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--sizes", "gpt2"], "--sizes has no effect with --sparse"),
        (["--vocab-size", "300"], "--vocab-size has no effect with --sparse"),
        (["--against", "plain"], "--against has no effect with --sparse"),
        (["--json", "/nowhere/x.json"], "/nowhere/x.json: there is no folder /nowhere"),
        (["--", "--max-steps", "3"], "unknown flag --max-steps"),
    ],
)
def test_bad_input_is_one_line(argv: list[str], words: str, run: Path) -> None:
    with pytest.raises(UserError) as error:
        bench.main(["--sparse", str(run), *argv])
    (message,) = error.value.messages
    assert words in message
    assert "\n" not in message


def test_a_run_without_zeros_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    assert tiny.train(data, dense, "--max-steps", "1") == Exit.OK
    with pytest.raises(UserError, match="have no zeros, so there is nothing sparse to measure"):
        bench.main(["--sparse", str(dense)])
    with pytest.raises(UserError, match="is not a run directory"):
        bench.main(["--sparse", str(tmp_path)])
