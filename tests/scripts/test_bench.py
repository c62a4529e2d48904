"""The bench on tiny shapes: its numbers agree with each other, and it compares equal things only.

How fast anything is, no test says.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gpt2.config.errors import UserError
from scripts import bench
from scripts.benchmark import contestants, training
from scripts.benchmark import measure as bench_measure
from scripts.benchmark.vocabulary import usual_vocabulary

pytestmark = pytest.mark.slow

TINY = [
    "--model", "custom", "--n-layer", "2", "--n-head", "2", "--n-embd", "64", "--block-size", "32",
    "--batch-size", "2", "--gradient-accumulation", "2", "--num-threads", "1", "--device", "cpu",
    "--num-workers", "0",
]  # fmt: skip
#: By hand: embeddings 256*64 + 32*64; a block 12*64^2 weights, 13*64 biases and norms; last norm.
PARAMETERS = 256 * 64 + 32 * 64 + 2 * (12 * 64**2 + 13 * 64) + 2 * 64
TOKENS = 2 * 2 * 32


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    own = ["--against", "plain", "--vocab-size", "256", "--steps", "1", "--repeats", "3"]
    own += ["--against", "transformers"]
    own += ["--json", str(folder / "all.json"), "--profile", str(folder / "trace.json")]
    assert bench.main([*own, "--", *TINY]) == 0
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    found: dict[str, Any] = json.loads((folder / "all.json").read_text())
    return found


def test_the_numbers_agree_with_each_other(report: dict[str, Any]) -> None:
    (result,) = report["results"]
    assert result["parameters"] == PARAMETERS
    assert result["tokens_per_step"] == TOKENS
    assert list(result["sides"]) == ["ours", "plain", "transformers"]
    ours = result["sides"]["ours"]["ms_per_step"]["values"]
    for side in result["sides"].values():
        times = side["ms_per_step"]
        assert len(times["values"]) == 3
        assert times["median"] == sorted(times["values"])[1]
        seconds = times["median"] / 1000
        assert side["tokens_per_second"] * seconds == pytest.approx(TOKENS)
        assert side["flops_per_second"] * seconds == pytest.approx(6 * PARAMETERS * TOKENS)
        ratios = sorted(t / o for t, o in zip(times["values"], ours, strict=True))
        assert side["ours_faster"]["median"] == pytest.approx(ratios[1])
        assert side["compile_seconds"] is None
        assert side["device_bytes"] is None
        assert side["host_bytes"] is None or side["host_bytes"] > 4 * PARAMETERS
    assert result["sides"]["ours"]["ours_faster"] == {"median": 1.0, "iqr": 0.0}
    assert result["matmul"]["best"] >= result["matmul"]["median"] > 0
    assert result["matmul"]["card_peak"] is None
    assert sum(cost["share"] for cost in result["profile"]) <= 1.0


def test_the_table_says_what_was_measured_where(report: dict[str, Any]) -> None:
    text = bench.tables(report)
    for word in (torch.__version__, "1 threads", "fp32", "not compiled", "batch 2 x 2 x 32"):
        assert word in text
    rows = [line for line in text.splitlines() if line.startswith(("| ours", "| plain |"))]
    assert len(rows) == 2
    assert "not idle" in bench.tables({**report, "load_average": 2.0})
    assert "not idle" not in bench.tables({**report, "load_average": 0.0})


def test_several_sizes_make_several_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measure(config: Any, arguments: argparse.Namespace) -> dict[str, Any]:
        seen.append(config.model.n_layer)
        return {}

    monkeypatch.setattr(training, "measure", measure)
    monkeypatch.setattr(bench, "tables", lambda report: str(len(report["results"])))
    assert bench.main(["--sizes", "gpt2-mini,gpt2", "--", "--batch-size", "2"]) == 0
    assert seen == [6, 12]
    assert capsys.readouterr().out == "2\n"


def test_the_flop_of_gpt2_small() -> None:
    # 124,439,808 parameters, batch 4 x 1024: 6 * 124439808 * 4096.
    assert bench_measure.model_flops(124_439_808, 4096) == 3_058_232_721_408


def test_median_and_quartiles() -> None:
    assert bench_measure.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "iqr": 2.0}
    assert bench_measure.spread([7.0]) == {"median": 7.0, "iqr": 0.0}


@pytest.fixture
def contest() -> Iterator[tuple[Any, contestants.Ours, Any]]:
    config = bench.configured([*TINY, "--precision", "fp32"], None)
    tokens = contestants.synthetic_tokens(config, 256)
    ours = contestants.Ours(config, tokens, torch.device("cpu"), "fp32")
    yield config, ours, tokens
    ours.close()


@pytest.mark.parametrize("name", contestants.PEERS)
def test_a_peer_starts_equal_and_trains(
    name: str, contest: tuple[Any, contestants.Ours, Any]
) -> None:
    config, ours, tokens = contest
    peer = contestants.build_peer(name, config, tokens, ours)
    contestants.check_same_loss(ours, peer)
    before = {k: v.clone() for k, v in ours.weights().items()}
    peer.run(1)
    assert all(torch.equal(v, before[k]) for k, v in ours.weights().items()), "shared weights"
    moved = next(peer.model.parameters())
    assert not torch.equal(moved, next(ours.model.parameters()))
    ours.run(2)
    assert ours.progress.step == 2
    assert not torch.equal(
        ours.weights()["transformer.wte.weight"], before["transformer.wte.weight"]
    )


def test_who_is_compiled(contest: tuple[Any, contestants.Ours, Any]) -> None:
    config, ours, tokens = contest
    compiling = bench.configured([*TINY, "--compile"], None)
    for given, wanted in ((config, False), (compiling, True)):
        assert contestants.wants_compiling(ours, given) is wanted
        for name, compiled in (("plain", False), ("plain-compiled", True)):
            peer = contestants.build_peer(name, given, tokens, ours)
            assert peer.name == name
            assert contestants.wants_compiling(peer, given) is compiled
            peer.close()


def test_compiling_that_fails_is_an_error(
    contest: tuple[Any, contestants.Ours, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ours, tokens = contest
    monkeypatch.setattr(contestants, "compile_or_fall_back", lambda _part, _trial: "no compiler")
    peer = contestants.build_peer("plain-compiled", config, tokens, ours)
    for side, flag in ((ours, "--compile"), (peer, "--against plain-compiled")):
        with pytest.raises(UserError, match=f"^{flag}: compiling is not possible here: no comp"):
            contestants.compile_side(side)
    peer.close()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda loss: 1.001 * loss, "loss"),
        (lambda loss: 1.01 * loss - 0.01 * loss.detach(), "gradient norm"),  # the same loss
    ],
)
def test_a_peer_that_differs_is_refused(
    change: Any, what: str, contest: tuple[Any, contestants.Ours, Any]
) -> None:
    config, ours, tokens = contest
    peer = contestants.build_peer("plain", config, tokens, ours)
    peer._loss = lambda ids, targets: change(peer.model(ids, targets))
    words = f"--against plain computes something else.* its {what} is .* nothing was compared"
    with pytest.raises(UserError, match=words):
        contestants.check_same_loss(ours, peer)


def test_a_lost_weight_is_refused(contest: tuple[Any, contestants.Ours, Any]) -> None:
    config, ours, tokens = contest
    peer = contestants.build_peer("plain", config, tokens, ours)
    with torch.no_grad():
        peer.model.wpe.weight.zero_()  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match="nothing was compared"):
        contestants.check_same_loss(ours, peer)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--against", "jax"], "'jax' is unknown (there are: plain, plain-compiled, transfo"),
        (["--sizes", "gpt3"], "--model 'gpt3' is unknown"),
        (["--steps", "0"], "'0' is not a number from 1"),
        (["--vocab-size", "70000"], "70000 is not within 2..65536"),
        (["--config", "nowhere"], "--config nowhere: no such file"),
        (["--json", "/nowhere/x.json"], "/nowhere/x.json: there is no folder /nowhere"),
        (["--profile", "t.json", "--sizes", "gpt2,gpt2-mini"], "give one size with it"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--", "--batch-siz", "3"], "unknown flag --batch-siz"),
        (["--against", "plain", "--", *TINY, "--optimizer", "sgd"], "--against plain has AdamW"),
        (
            ["--against", "transformers", "--vocab-size", "256", "--", *TINY, "--no-bias"],
            "--against transformers always has biases",
        ),
    ],
)
def test_bad_input_is_one_line(argv: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        bench.main(argv)
    (message,) = caught.value.messages
    assert words in message
    assert "\n" not in message


def test_a_defconfig_may_be_named() -> None:
    given = bench.flags_of("gpt2-shakespeare-char-cpu")
    assert bench.configured(given, None).data.dataset == "shakespeare-char"
    assert usual_vocabulary(bench.configured(given, None)) == 65


def test_the_limit_multiplies_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU multiplies equal numbers at a higher clock; and torch's generator is the sides'."""
    seen: list[torch.Tensor] = []
    product = torch.mm

    def spy(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        seen.append(a)
        return product(a, b, out=out)

    monkeypatch.setattr(torch, "mm", spy)
    before = torch.get_rng_state()
    limit = bench_measure.MatmulLimit(torch.device("cpu"), torch.float32, seconds=0.001)
    assert limit.rate(64) > 0.0
    assert all(0.9 < float(a.std()) < 1.1 for a in seen)
    assert torch.equal(torch.get_rng_state(), before)
