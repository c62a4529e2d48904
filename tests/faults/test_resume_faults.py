"""Rows 11 to 13, 39 and 40: a run that goes on, with everything as it was and with something else.

Rows 20 and 21, a micro-batch that does not fit, are in tests/session/test_retry.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import evaluate, export, sample
from gpt2.checkpoint import store
from gpt2.config import plugins
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import PLUGIN_PACKAGES, QUALIFIED
from gpt2.data.batches import TrainBatches
from gpt2.data.prepare import shard_writer
from gpt2.training.recorder import RunRecorder
from tests.run_dir.test_resume import Killed, assert_same, train_killed
from tests.support import tiny

pytestmark = pytest.mark.slow

OPTIMIZERS = [
    name
    for name in plugins.names(PLUGIN_PACKAGES["OPTIMIZER"])
    if name != QUALIFIED["OPTIMIZER"][0]
]
#: Methods that go with every optimizer, in turns; each in every detail: test_pruned_runs.py.
METHODS = ("magnitude", "movement", "rigl", "random", "set")
RUN = ("--max-steps", "6", "--checkpoint-interval", "1")
ENTRIES = ((sample.main,), (evaluate.main,), (export.main, "--format", "dense"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its third step of six."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train_killed(patch, 3, data, run, *RUN)
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.train(data, path, *RUN) == Exit.OK
    return path


def state(run: Path) -> dict[str, Any]:
    """Everything of the newest checkpoint that is no tensor and no time."""
    newest = max((run / "checkpoints").glob("step-*"))
    found: dict[str, Any] = json.loads((newest / "state.json").read_text())
    del found["elapsed"]
    return found


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def refused(data: Path, run: Path, *more: str, code: Exit = Exit.CONFIG) -> str:
    """What a resume says that is refused; the checkpoints stay as they are."""
    before = tiny.checkpoint_bytes(run)
    with pytest.raises(UserError) as caught:
        tiny.train(data, run, *RUN, *more)
    assert caught.value.code == code
    assert tiny.checkpoint_bytes(run) == before
    assert not (run / "summary.json").exists()
    return str(caught.value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_with_everything_on(
    optimizer: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 11: dropout, accumulation, scaled fp16 and pruning; killed between two checkpoints."""
    method = METHODS[OPTIMIZERS.index(optimizer) % len(METHODS)]
    more = (
        "--optimizer", optimizer, "--precision", "fp16", "--dropout", "0.1",
        "--gradient-accumulation", "2", "--max-steps", "8", "--checkpoint-interval", "3",
        "--eval-interval", "4", "--num-workers", "2", "--target-sparsity", "0.7",
        "--pruning-method", "state" if optimizer == "adamwprune" else method,
    )  # fmt: skip
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    train_killed(monkeypatch, 5, data, tmp_path / "run", *more)
    assert store.steps(tmp_path / "run" / "checkpoints")[-1] < 5
    assert tiny.train(data, tmp_path / "run", *more) == Exit.OK
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert state(tmp_path / "run") == state(tmp_path / "whole")
    assert record(tmp_path / "run")["determinism"] == "bitwise"
    assert record(tmp_path / "run")["moved"] == []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, int], str]:
    """Hash of the tokens of each micro-step that was trained on."""
    found: dict[tuple[int, int], str] = {}
    original = TrainBatches.train

    def train(self: TrainBatches, step: int, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
        pair = original(self, step, micro)
        digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in pair)).hexdigest()
        assert found.setdefault((step, micro), digest) == digest  # also when it is done again
        return pair

    monkeypatch.setattr(TrainBatches, "train", train)
    return found


def test_borders_of_shards_and_epochs_are_none_of_a_resume(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: dict[tuple[int, int], str]
) -> None:
    """Row 12: 56 sequences in shards of 60 tokens, 8 to a step: an epoch ends after step 7.

    A kill on the border, one before and one after; the whole run reads the same text as one file.
    """
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "SHARD", 60)
        shards = tiny.make_data(tmp_path / "shards")
    assert len(list((shards / "text").glob("train-*.bin"))) == 8
    more = (
        "--num-epochs", "1.3", "--gradient-accumulation", "2", "--checkpoint-interval", "1",
        "--dropout", "0.1",
    )  # fmt: skip
    assert tiny.train(data, tmp_path / "whole", *more) == Exit.OK
    assert {step for step, _ in seen} == set(range(10))  # 1.3 epochs are 72.8 sequences
    assert len(set(seen.values())) == 20
    for step in (6, 7, 8):
        run = tmp_path / f"killed-{step}"
        train_killed(monkeypatch, step, shards, run, *more)
        # The options name the folder of the data, which is another one here.
        assert tiny.train(shards, run, *more) == Exit.OK
        assert_same(run, tmp_path / "whole")
        assert state(run) == state(tmp_path / "whole")


CIRCUMSTANCES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "host": (lambda r: r.update(host="elsewhere"), ", not elsewhere"),
    "device": (lambda r: r.update(device="cuda:0"), "device cpu, not cuda"),
    "card": (lambda r: r.update(device_name="A card"), ", not A card"),
    "threads": (lambda r: r.update(threads=9), "threads 1, not 9"),
    "torch": (lambda r: r["versions"].update(torch="2.10.0"), "torch 2.13.0"),
    "python": (lambda r: r["versions"].update(python="3.10.1"), ", not 3.10.1"),
    "program": (lambda r: r.update(code="0" * 64), "another version of this program"),
}


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_other_circumstances_are_said_and_written_down(
    name: str, data: Path, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: one warning that says in what; only that is said, and what it means for the bits."""
    change, said = CIRCUMSTANCES[name]
    edit(run / "run.json", change)
    assert tiny.train(data, run, *RUN) == Exit.OK
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: resuming with ")
    assert said in line
    assert line in (run / "log.txt").read_text()
    assert record(run)["determinism"] == "statistical"
    assert len(record(run)["moved"]) == 1
    assert record(run)["moved"][0] in line
    losses = [[line.get("loss") for line in tiny.metrics(path)] for path in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_versions_of_what_computes_nothing_are_no_matter(
    data: Path, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: as little as where the run is the same in all."""
    edit(run / "run.json", lambda r: r["versions"].update(kconfiglib="1.0"))
    assert tiny.train(data, run, *RUN) == Exit.OK
    assert capsys.readouterr().err == ""
    assert record(run)["determinism"] == "bitwise"
    assert_same(run, whole)


def test_other_threads_and_portions_end_near(
    data: Path, run: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: really computed in another way; every loss within 1e-4."""
    before = torch.get_num_threads()
    half = ("--batch-size", "2", "--gradient-accumulation", "2", "--num-threads", "2")
    try:
        assert tiny.train(data, run, *RUN, *half) == Exit.OK
    finally:
        torch.set_num_threads(before)
    said = "resuming with threads 2, not 1, micro batch 2, not 4: the data order is unchanged"
    assert said in capsys.readouterr().err
    for line, expected in zip(tiny.metrics(run), tiny.metrics(whole), strict=True):
        assert line == pytest.approx(expected, abs=1e-4)


def test_a_second_move_is_said_and_the_first_is_kept(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: a run that moved once is not bit-exact again because it moves no more."""
    edit(run / "run.json", lambda r: r.update(host="first"))
    train_killed(monkeypatch, 4, data, run, *RUN)
    capsys.readouterr()
    train_killed(monkeypatch, 5, data, run, *RUN)
    assert capsys.readouterr().err == ""
    assert record(run)["determinism"] == "statistical"
    edit(run / "run.json", lambda r: r.update(host="second"))
    assert tiny.train(data, run, *RUN) == Exit.OK
    assert ", not second" in capsys.readouterr().err
    assert [text.split()[-1] for text in record(run)["moved"]] == ["first", "second"]


def test_a_run_that_lost_its_record_promises_nothing(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: without run.json nobody knows how it was computed."""
    (run / "run.json").unlink()
    assert tiny.train(data, run, *RUN) == Exit.OK
    assert "resuming with conditions that run.json does not tell" in capsys.readouterr().err
    assert record(run)["determinism"] == "statistical"


def test_before_the_first_checkpoint_nothing_has_moved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 13: all is computed anew."""
    monkeypatch.setattr(RunRecorder, "restore", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        tiny.train(data, tmp_path / "run", *RUN)
    monkeypatch.undo()
    edit(tmp_path / "run" / "run.json", lambda r: r.update(host="elsewhere"))
    assert tiny.train(data, tmp_path / "run", *RUN) == Exit.OK
    assert capsys.readouterr().err == ""
    assert record(tmp_path / "run")["determinism"] == "bitwise"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--n-embd", "18"), "--n-embd is 18 but the run in"),
        (("--n-layer", "3"), "--n-layer is 3 but the run in"),
        (("--block-size", "4"), "--block-size is 4 but the run in"),
        (("--precision", "fp16"), "--precision is fp16 but the run in"),
        (("--pruning-method", "magnitude"), "--pruning-method is magnitude but the run in"),
        (("--optimizer", "sgd"), "--optimizer is sgd but the run in"),
    ],
)
def test_another_model_or_method_is_refused_by_name(
    flags: tuple[str, ...], said: str, data: Path, run: Path
) -> None:
    """Row 13: the flag, what it is now and what it was, and two ways out."""
    text = refused(data, run, *flags)
    assert said in text
    assert "leave it as it was, or choose another --run-dir" in text


@pytest.mark.parametrize(
    ("line", "now", "flags", "said"),
    [
        (
            "CONFIG_N_EMBD=16", "CONFIG_N_EMBD=18", ("--n-embd", "18"),
            r"the checkpoint has transformer\.\S+ of shape \(\d+, 16\), the model needs",
        ),
        (
            "CONFIG_N_LAYER=2", "CONFIG_N_LAYER=3", ("--n-layer", "3"),
            r"the checkpoint is of another model: transformer\.h\.2\.",
        ),
    ],
)  # fmt: skip
def test_an_edited_config_is_no_way_around(
    line: str, now: str, flags: tuple[str, ...], said: str, data: Path, run: Path
) -> None:
    """Row 13: options that agree with each other, and with the weights do not."""
    text = (run / "config").read_text()
    assert line in text
    (run / "config").write_text(text.replace(line, now))
    with pytest.raises(UserError, match=said) as caught:
        tiny.train(data, run, *RUN, *flags)
    assert caught.value.code == Exit.CONFIG


def test_another_vocabulary_of_the_same_ids_is_refused(
    data: Path, run: Path, tmp_path: Path
) -> None:
    """Rows 13, 40: the ids are the same, and stand for other characters."""
    before = record(run)["data"]["tokenizer"]["characters"]
    other = "".join(sorted({*before[1:], "\u00e9"}))
    edit(run / "run.json", lambda r: r["data"]["tokenizer"].update(characters=other))
    assert (
        f"the data have changed since the run in {run} began in the characters of their tokenizer; "
        "put them back, or choose another --run-dir"
    ) in refused(data, run)
    with pytest.raises(UserError, match="not those the run was trained on") as caught:
        evaluate.main(["--run", str(run)])
    assert caught.value.code == Exit.DATA


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text + "CONFIG_YOUNGER=y\n", "CONFIG_YOUNGER is unknown"),
        (lambda text: text.replace("CONFIG_SEED=", "CONFIG_SEED=a"), "CONFIG_SEED: 'a1337' is no"),
        (lambda text: text + "<<<<<<< HEAD\n", "is not a CONFIG_NAME=value line"),
    ],
)
def test_a_config_of_another_version_is_refused(
    change: Callable[[str], str], said: str, data: Path, run: Path, tmp_path: Path
) -> None:
    """Row 13: file and line of what is unknown, and the version that knows it; by every entry."""
    path = run / "config"
    path.write_text(change(path.read_text()))
    texts = [refused(data, run)]
    for entry, *more in ENTRIES:
        arguments = ["--run", str(run), *more]
        with pytest.raises(UserError) as caught:
            entry(arguments)
        assert caught.value.code == Exit.CONFIG
        texts.append(str(caught.value))
    for text in texts:
        assert said in text
        assert f"{path}:" in text
        assert "use the version that made the run (run.json names its commit)" in text
    assert not (run / "export").exists()


def test_a_line_that_is_missing_is_the_default(data: Path, run: Path, whole: Path) -> None:
    """Row 13: options that are younger than a run have no line in its config.

    Where the default is not what the run was made with, that is refused as any other change is.
    """
    text = (run / "config").read_text().splitlines(keepends=True)
    without = [line for line in text if not line.startswith("CONFIG_GRAD_CLIP=")]
    assert len(without) == len(text) - 1
    (run / "config").write_text("".join(without))
    assert tiny.train(data, run, *RUN) == Exit.OK
    assert_same(run, whole)


def test_a_line_that_is_missed(data: Path, run: Path) -> None:
    """Row 13: the other half of it."""
    text = (run / "config").read_text().splitlines(keepends=True)
    (run / "config").write_text("".join(t for t in text if not t.startswith("CONFIG_BLOCK_SIZE=")))
    assert "--block-size is 8 but the run in" in refused(data, run)


PRUNED = ("--pruning-method", "magnitude", "--target-sparsity", "0.7")


@pytest.fixture(scope="module")
def pruned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its fifth step of six, in the midst of its ramp."""
    path = tmp_path_factory.mktemp("pruned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train_killed(patch, 4, data, path, *RUN, *PRUNED)
    return path


def live_bit(bits: torch.Tensor) -> int:
    """The first byte in which a weight is live."""
    return int((bits != 255).nonzero()[0])


def set_a_bit(tensors: dict[str, torch.Tensor], name: str) -> None:
    bits = tensors[name]
    place = live_bit(bits)
    bits[place] = int(bits[place]) | (int(bits[place]) + 1)  # its lowest bit that is not set


def clear_a_bit(tensors: dict[str, torch.Tensor], name: str) -> None:
    bits = tensors[name]
    place = int(bits.nonzero()[0])
    bits[place] = int(bits[place]) & (int(bits[place]) - 1)


def drop(tensors: dict[str, torch.Tensor], name: str) -> None:
    del tensors[name]


def drop_all(tensors: dict[str, torch.Tensor], name: str) -> None:
    for key in [key for key in tensors if key.startswith("prune.")]:
        del tensors[key]


def to_floats(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = tensors[name].float()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_a_bit, "weights of {name} that its mask says are pruned are not zero"),
        (clear_a_bit, "its masks prune 4,300 weights, and its last pruning event 4,301"),
        (drop, "weights, and its last pruning event 4,301"),
        (to_floats, "the mask of {name} does not fit the model"),
        (drop_all, "it has no events"),
    ],
)
def test_masks_and_zeros_that_disagree(
    change: Callable[[dict[str, torch.Tensor], str], None], said: str, pruned: Path, data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Row 39: every file verifies, the manifest was made for it; the run refuses to go on: exit 4.

    Also a pruned weight that is said to be live, which is zero and so contradicts no mask.
    """
    run = Path(shutil.copytree(pruned, tmp_path / "run"))
    name = "transformer.h.1.mlp.c_fc.weight"
    parent = run / "checkpoints"
    for step in store.steps(parent):
        found = store.load(store.folder_of(parent, step))
        tensors = {key: tensor.clone() for key, tensor in found.optim.items()}
        change(tensors, f"prune.mask.{name}")
        shutil.rmtree(store.folder_of(parent, step))
        made = store.Checkpoint(step, found.model, tensors, found.state)
        store.save(parent, made, keep=store.steps(parent))
    text = refused(data, run, *PRUNED, code=Exit.CHECKPOINT)
    assert said.format(name=name) in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [("characters", "zyx"), ("vocab_size", 7), ("name", "gpt2"), ("end_of_text", 3)],
)
def test_a_tokenizer_that_is_not_what_it_says(
    key: str, value: object, whole: Path, tmp_path: Path
) -> None:
    """Row 40: characters out of order, or more ids than there are: no text is made of them."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit(run / "run.json", lambda r: r["data"]["tokenizer"].update({key: value}))
    for entry, *more in ENTRIES:
        with pytest.raises(UserError) as caught:
            entry(["--run", str(run), *more])
        assert caught.value.code in (Exit.CONFIG, Exit.DATA)
        said = ("tokenizer", "the model needs", "not those the run was trained on")
        assert any(text in str(caught.value) for text in said)
    assert not (run / "export").exists()


def test_a_damaged_vocabulary_ends_a_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 40: not after hours, when the sample is to be written. The rest: test_tokenizer.py."""
    from gpt2.data import tokenizer
    from tests.data.test_tokens import make_folder

    make_folder(tmp_path / "text", [1] * 90, [1] * 20)
    meta = tmp_path / "text" / "meta.json"
    edit(meta, lambda r: r.update(tokenizer=tokenizer.Gpt2Tokenizer().describe()))
    folder = Path(shutil.copytree(tokenizer.VOCABULARY, tmp_path / "vocabulary"))
    (path,) = (folder / name for name in list(tokenizer.VOCABULARY_SHA256)[:1])
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    original = tokenizer.Gpt2Tokenizer.__init__
    monkeypatch.setattr(
        tokenizer.Gpt2Tokenizer, "__init__", lambda self: original(self, vocabulary=folder)
    )
    with pytest.raises(UserError, match="is damaged") as caught:
        tiny.train(tmp_path, tmp_path / "run", *RUN, "--tokenizer", "gpt2")
    assert caught.value.code == Exit.DATA
    assert str(path) in str(caught.value)
    assert not (tmp_path / "run").exists()
