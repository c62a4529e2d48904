"""The plan before the start: what it says, what it refuses, and what it chooses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from gpt2.config.actions import TrainActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.config.schema import ROOT_TREE
from gpt2.machine.ranks import DistributedContext
from gpt2.planning import calibration, probe
from gpt2.planning.command import choose_batch, refuse_or_fit
from gpt2.planning.plan import Planned, plan
from gpt2.planning.remedies import Alternative, MemoryBudget, largest, micro_batches, remedies
from gpt2.planning.step import peak_of
from gpt2.planning.step_shape import StepShape
from gpt2.planning.text import minutes_on_cpu
from gpt2.run_dir.resume import load_config
from gpt2.train import main
from scripts import plan_table
from scripts.flags import flags
from tests.support import tiny
from tests.support.planning import configured

pytestmark = pytest.mark.slow

DEFCONFIGS = sorted((tiny.REPOSITORY / "defconfigs").glob("[!.]*"))
CARDS = [
    (path, int(found[1]))
    for path in DEFCONFIGS
    if (found := re.search(r"([0-9]+) GB", path.read_text().partition("\n")[0]))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def planned(line: str) -> Planned:
    return plan(configured(line), 50257, plan_for=10**12)


def test_micro_batches_divide_the_effective_batch() -> None:
    assert list(micro_batches(12, 12)) == [12, 6, 4, 3, 2, 1]
    assert list(micro_batches(12, 5)) == [4, 3, 2, 1]
    assert list(micro_batches(7, 100)) == [7, 1]


@pytest.mark.slow
def test_largest_is_the_border() -> None:
    shape = planned("--batch-size 32 --dropout 0").shape
    for limit in (3e9, 4e9, 5e9):
        budget = MemoryBudget("a card", int(limit))
        size = largest(shape, 32, 32, budget)
        assert size is not None
        sizes = {n: n != 32 for n in (1, 2, 4, 8, 16, 32)}
        fitting = [
            n
            for n, accumulated in sizes.items()
            if peak_of(dataclasses.replace(shape, batch=n, accumulated=accumulated)).total <= limit
        ]
        assert size == max(fitting)
    assert largest(shape, 32, 32, MemoryBudget("a card", 10**9)) is None


def test_remedies_fit_and_each_keeps_more_of_the_micro_batch() -> None:
    made = planned("--batch-size 64 --dropout 0")
    budget = MemoryBudget("a card", 6 * 10**9)
    ways = [
        Alternative(
            "--selective", "a", lambda w: dataclasses.replace(w, checkpointing="selective")
        ),
        Alternative("--full", "b", lambda w: dataclasses.replace(w, checkpointing="full")),
    ]
    found = remedies(made.shape, 64, budget, ways)
    assert [remedy.shape.batch for remedy in found] == sorted(
        {remedy.shape.batch for remedy in found}
    )
    assert found[-1].shape.batch == 64
    for remedy in found:
        assert budget.fits(remedy.shape)
        size = re.search(r"--batch-size ([0-9]+) --gradient-accumulation ([0-9]+)", remedy.flags)
        assert size is None or int(size[1]) * int(size[2]) == 64
    assert not budget.fits(made.shape)


def test_what_is_not_known_is_not_refused() -> None:
    assert MemoryBudget("a card", None).fits(planned("--batch-size 64").shape)


@pytest.mark.parametrize(
    ("name", "per_parameter"), [("adamw", 8.0), ("adamwadv", 12.0), ("lion", 4.0), ("sgd", 4.0)]
)
def test_state_is_what_the_optimizer_keeps(name: str, per_parameter: float) -> None:
    shape = planned(f"--optimizer {name}").shape
    assert shape.state == pytest.approx(per_parameter * shape.parameters, rel=1e-4)


def test_checkpoints_in_the_background_need_their_copy() -> None:
    """On a CPU the peak holds it, beside a GPU the host; to write at once is the first way out."""
    ways = ("--no-async-checkpoint", "--async-checkpoint")
    line = "--device cpu --pruning-method movement"
    at_once, beside = (plan(configured(f"{line} {w}"), 50257, bounds=True) for w in ways)
    shape = beside.shape
    copied = 4 * shape.parameters + shape.state + shape.masks
    assert shape.masks > 0
    peaks = [peak_of(made.shape) for made in (at_once, beside)]
    assert peaks[1].total - peaks[0].total == copied == peaks[1].held["checkpoint copy"]
    assert peaks[0].held["checkpoint copy"] == 0
    more = beside.budget.needed(peaks[1]) - beside.budget.needed(peaks[0])
    assert beside.host - at_once.host == more >= copied
    here = dataclasses.replace(beside.budget, size=beside.budget.needed(peaks[1]) - 1)
    assert dataclasses.replace(beside, budget=here).remedies()[-1].flags == ways[0]
    gpu = [plan(configured(w), 50257, plan_for=10**12, bounds=True) for w in ways]
    assert peak_of(gpu[0].shape) == peak_of(gpu[1].shape)
    assert gpu[1].host - gpu[0].host == gpu[1].shape.checkpoint


@pytest.mark.slow
def test_state_in_bf16_is_half() -> None:
    shape = planned("--optimizer-state-precision bf16").shape
    assert shape.state == pytest.approx(4 * shape.parameters, rel=1e-4)


def test_an_optimizer_that_asks_for_values_is_tried_on_numbers() -> None:
    shape = planned("--optimizer adafactor").shape  # a row and a column of each matrix
    assert 0 < shape.state < 0.2 * shape.parameters


@pytest.mark.parametrize(("method", "bits"), [("magnitude", 1), ("movement", 33)])
def test_pruning_holds_a_bit_for_each_weight_and_its_scores(method: str, bits: int) -> None:
    shape = planned(f"--pruning-method {method}").shape
    prunable = 12 * 768**2 * 12
    assert shape.masks == pytest.approx(bits * prunable / 8, rel=0.01)
    assert 4 * 768 * 768 * 4 < shape.event < 200e6


def test_random_numbers_that_an_event_keeps_are_planned() -> None:
    """Drawn once for an event of a global threshold: 4 bytes for each weight that may go."""
    ways = ("--sparsity-pattern global", "--sparsity-pattern layer")
    kept, drawn = (planned(f"--pruning-method random {way}").shape.event for way in ways)
    assert kept - drawn == pytest.approx(4 * (12 * 12 - 4) * 768**2, rel=0.1)


def test_trying_leaves_the_random_generators_alone() -> None:
    import torch

    torch.manual_seed(3)
    before = torch.get_rng_state()
    probe.of_pruning(configured("--pruning-method wanda"), 50257)
    probe.of_optimizer(configured("--optimizer adafactor"), 50257, "cpu")
    assert before.equal(torch.get_rng_state())


def test_plan_is_shown_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"--plan --plan-for 24G --dropout 0 --data-dir {tmp_path}"
    assert main(line.split()) == Exit.OK
    text = capsys.readouterr().out
    for word in ("parameters", "optimizer state", "activations", "peak", "host memory", "disk"):
        assert word in text
    assert "verdict: it fits" in text
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_the_plan_says_that_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    first = "no GPU that torch can use: planning for the CPU in fp32; --plan-for 24G plans"
    line = f"--plan --dropout 0 --batch-size 2 --data-dir {tmp_path}"
    main(line.split())
    assert capsys.readouterr().out.startswith(first)
    main(f"{line} --device cpu".split())  # as asked for
    assert capsys.readouterr().out.startswith("memory plan: ")
    config = configured("--batch-size 3000 --precision fp32")
    with pytest.raises(UserError) as caught:
        refuse_or_fit(config, TrainActions(), 50257, DistributedContext())
    said = caught.value.messages[0]
    assert said.startswith("it does not fit: needs ")
    assert f"\n  {first}" in said
    small = "for a run of minutes on a CPU: make defconfig-gpt2-shakespeare-char-cpu && make"
    assert said.endswith(f"\n  {small}")


def test_a_model_as_small_as_the_defconfig_for_a_cpu_has_no_hint_at_it() -> None:
    assert minutes_on_cpu(configured("--model gpt2"))
    options = Options(ROOT_TREE)
    options.read(tiny.REPOSITORY / "defconfigs/gpt2-shakespeare-char-cpu")
    small = bind(options)
    assert minutes_on_cpu(small) == ""
    deeper = dataclasses.replace(small.model, n_layer=small.model.n_layer + 1)
    assert minutes_on_cpu(dataclasses.replace(small, model=deeper))


def test_plan_of_what_does_not_fit_names_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--plan --plan-for 6G --batch-size 64 --dropout 0 --data-dir {tmp_path}"
    assert main(line.split()) == Exit.MEMORY
    text = capsys.readouterr().out
    ways = re.findall(r"it fits with (.*?)   \(", text)
    assert ways
    for way in ways:
        assert main(f"{line} {way}".split()) == Exit.OK


@pytest.mark.slow
@pytest.mark.parametrize("size", [3.0, 4.0])
def test_a_way_out_names_all_that_it_changes(size: float) -> None:
    line, card = "--dropout 0 --batch-size 64 --precision fp32", round(size * 1e9)
    found = plan(configured(line), 50257, plan_for=card).remedies()
    assert found
    for remedy in found:
        again = plan(configured(f"{line} {remedy.flags}"), 50257, plan_for=card)
        assert again.fits
        assert dataclasses.replace(again.shape, state=0, step=0) == dataclasses.replace(
            remedy.shape, state=0, step=0
        )


@pytest.mark.parametrize("where", ["--plan-for 80G --model gpt2-xl", "--device cpu --n-layer 2"])
def test_the_rows_of_the_plan_add_up(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"--plan --dropout 0 --batch-size 2 --data-dir {tmp_path} {where}"
    main(line.split() if "--model" in where else ["--model", "custom", *line.split()])
    rows = re.findall(r"^  (\+ )?([a-z A-Z]+?) +([0-9.]+) ([GM]B)", capsys.readouterr().out, re.M)
    sizes = [(name, float(n) * {"M": 1e6, "G": 1e9}[unit[0]], plus) for plus, name, n, unit in rows]
    names = [name for name, *_ in sizes]
    peak, needed = names.index("peak"), names.index("needed")
    assert all(size for _, size, _ in sizes[:needed])  # no row of 0 MB
    assert sum(size for _, size, _ in sizes[:peak]) == pytest.approx(sizes[peak][1], rel=0.01)
    beyond = sizes[peak + 1 : needed]
    assert beyond
    assert all(plus for *_, plus in beyond)
    assert sum(n for _, n, _ in sizes[peak:needed]) == pytest.approx(sizes[needed][1], rel=0.01)


def test_plan_for_programs_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = f"--plan-json --plan-for 24G --max-steps 7 --data-dir {tmp_path}"
    assert main(line.split()) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert sum(told["held"].values()) == told["peak"] < told["needed"] < 24e9
    assert told["steps"] == 7
    assert told["fits"] is True


def test_characters_are_counted_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make prepare") as caught:
        main(f"--plan --dataset shakespeare-char --data-dir {tmp_path}".split())
    assert caught.value.code == Exit.DATA


@pytest.mark.parametrize("word", ["24", "lots", "-1G"])
def test_a_size_needs_its_unit(word: str) -> None:
    with pytest.raises(UserError, match="--plan-for"):
        main(["--plan", f"--plan-for={word}"])


@pytest.mark.slow
def test_what_cannot_fit_is_not_started(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = ["--n-embd", "4096", "--n-layer", "40", "--host-memory-limit", "2G"]
    with pytest.raises(UserError, match="does not fit") as caught:
        main(tiny.flags(data, run, *line))
    assert caught.value.code == Exit.MEMORY
    assert "--ignore-plan" in str(caught.value)
    assert not run.exists()


def test_ignore_plan_starts_nevertheless(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryBudget, "fits", lambda self, shape, roughly=False: False)
    with pytest.raises(UserError, match="does not fit"):
        main(tiny.flags(data, tmp_path / "a"))
    assert main(tiny.flags(data, tmp_path / "b", "--ignore-plan")) == Exit.OK


@pytest.mark.slow
def test_auto_batch_keeps_the_effective_batch_and_is_written_down(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fits(self: MemoryBudget, shape: StepShape, roughly: bool = False) -> bool:
        return shape.batch <= 3

    monkeypatch.setattr(MemoryBudget, "fits", fits)
    more = ["--batch-size", "2", "--gradient-accumulation", "3"]
    assert main(tiny.flags(data, tmp_path / "run", *more, "--auto-batch")) == Exit.OK
    train = load_config(tmp_path / "run").train
    assert (train.batch_size, train.gradient_accumulation) == (3, 2)
    # Going on, the run keeps what was chosen.
    (tmp_path / "run" / "summary.json").rename(tmp_path / "summary.json")
    assert main(tiny.flags(data, tmp_path / "run", *more, "--auto-batch")) == Exit.OK
    assert "keeps --batch-size 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["micro_batch"] == 3
    assert main(tiny.flags(data, tmp_path / "same", *more)) == Exit.OK
    first, second = (
        json.loads((tmp_path / name / "summary.json").read_text())["val_loss"]
        for name in ("run", "same")
    )
    assert first == pytest.approx(second, abs=1e-5)


def test_a_measured_ratio_is_used_and_a_bad_file_named(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    assert calibration.ratio_of("a card", file) is None
    calibration.store_ratio("a card", 1.034, file)
    calibration.store_ratio("another", 1.2, file)
    assert calibration.ratio_of("a card", file) == 1.034
    for text in ("{", '{"a card": 7}', '{"a card": "x"}', "[]"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"bench.py --memory"):
            calibration.ratio_of("a card", file)


@pytest.mark.slow
def test_the_readme_has_the_rows_of_the_first_size() -> None:
    table = plan_table.parts(tiny.REPOSITORY / "docs" / "memory.md")[1].splitlines()
    assert set(plan_table.rows(*plan_table.SIZES[0])) <= set(table)


@pytest.mark.long
@pytest.mark.slow
def test_the_page_has_the_table_of_today() -> None:
    assert plan_table.main(["--check", str(tiny.REPOSITORY / "docs" / "memory.md")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("path", "size"), CARDS, ids=[path.name for path, _ in CARDS])
def test_a_defconfig_fits_the_card_it_names(path: Path, size: int) -> None:
    made = plan(configured(" ".join(flags(path))), 50257, plan_for=size * 10**9)
    assert made.fits, (
        made.budget.needed(peak_of(made.shape)),
        [remedy.flags for remedy in made.remedies()],
    )


def test_every_gpu_defconfig_names_its_card() -> None:
    assert len(CARDS) >= 9


def test_all_ranks_take_what_fits_the_tightest(monkeypatch: pytest.MonkeyPatch) -> None:
    options, _ = parse("train.py", "", ["--batch-size", "12"], TrainActions)
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: [value, 4])
    ranks = DistributedContext(rank=0, world_size=2)
    config = choose_batch(bind(options), 512, 10**12, ranks)
    assert (config.train.batch_size, config.train.gradient_accumulation) == (4, 3)
    assert options.value("BATCH_SIZE") == "12"  # planning changes nothing that was asked for


def test_processes_of_a_machine_share_its_memory() -> None:
    line = "--device cpu --host-memory-limit 4G"
    alone, shared = (plan(configured(line), 512, bounds=True, here=n).budget.size for n in (1, 2))
    assert alone is not None
    assert shared is not None
    assert shared < alone
