"""Exports: transformers computes the same from them, and our own are the run to the bit."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt2 import evaluate, export, sample
from gpt2.checkpoint import store
from gpt2.config import faults
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import MachineConfig
from gpt2.data.corpus import WholeText
from gpt2.data.prepare.pipeline import prepare
from gpt2.data.tokenizer import Gpt2Tokenizer, from_description
from gpt2.run_dir import folder as runs
from gpt2.weights.tokenizer_files import tokenizer_files
from gpt2.weights.trained import load_trained, open_stored
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
STEPS = ("--max-steps", "6", "--checkpoint-interval", "2", "--learning-rate", "0.05")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is 75 % sparse, and says that its best checkpoint is the one before the last."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert tiny.train(data, path, *STEPS, "--dropout", "0.1") == Exit.OK
    tiny.prune(path, 0.75)
    summary = json.loads((path / "summary.json").read_text())
    runs.write_whole(path / "summary.json", json.dumps(summary | {"best": {"step": 4}}))
    return path


def exported(run: Path, out: Path, form: str, *more: str) -> Path:
    arguments = ["--run", str(run), "--format", form, "--out", str(out), *more]
    assert export.main(arguments) == Exit.OK
    return out


def weights(run: Path, best: bool = False) -> dict[str, Tensor]:
    return dict(open_stored(run, best).weights.model)


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name].view(torch.uint8), right[name].view(torch.uint8)) for name in left
    )


def printed(
    capsys: pytest.CaptureFixture[str], entry: Callable[[list[str]], int], *arguments: str
) -> str:
    capsys.readouterr()
    assert entry([*arguments]) == Exit.OK
    return capsys.readouterr().out


@torch.no_grad()
def losses(run: Path, folder: Path, **how: Any) -> tuple[float, float]:
    """Our loss and that of transformers over the same tokens."""
    transformers = pytest.importorskip("transformers")
    ours = load_trained(run, False, CPU).model
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, **how).eval()
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(ours.vocab_size, (3, tiny.BLOCK + 1), generator=generator)
    logits = theirs(ids[:, :-1]).logits.float().flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
    return float(ours(ids[:, :-1], ids[:, 1:])), float(loss)


def test_transformers_has_the_same_loss(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "out", "hf")
    ours, theirs = losses(run, folder)
    assert theirs == pytest.approx(ours, abs=1e-5)
    config = json.loads((folder / "config.json").read_text())
    assert config["n_positions"] == config["n_ctx"] == tiny.BLOCK  # n_ctx: for GGUF's converter
    assert config["resid_pdrop"] == config["embd_pdrop"] == config["attn_pdrop"] == 0.1


def test_transformers_has_the_same_loss_without_biases(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert tiny.train(data, path, "--max-steps", "2", "--no-bias") == Exit.OK
    folder = exported(path, tmp_path / "out", "hf")
    ours, theirs = losses(path, folder)
    assert theirs == pytest.approx(ours, abs=1e-5)


def test_transformers_knows_every_tensor_of_it(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = exported(run, tmp_path / "out", "hf", "--dtype", "bf16")
    model, said = transformers.GPT2LMHeadModel.from_pretrained(
        folder, output_loading_info=True, dtype="auto"
    )
    assert model.dtype == torch.bfloat16
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours, theirs = losses(run, folder, dtype=torch.float32)
    assert theirs == pytest.approx(ours, abs=1e-2)
    assert theirs != ours


def test_the_tokenizer_of_transformers_is_ours(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Gpt2Tokenizer()
    for name, content in tokenizer_files(ours, block_size=32).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (theirs.vocab_size, theirs.eos_token_id) == (ours.vocab_size, ours.end_of_text)
    assert theirs.model_max_length == 32
    text = "ROMEO:\n  It's 1597,\tZo\u00eb \u4f60\u597d \U0001f600!   \n\n'tis"
    assert theirs(text)["input_ids"] == [int(token) for token in ours.encode(text)]


def test_the_characters_of_transformers_are_ours(run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = exported(run, tmp_path / "out", "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = from_description(json.loads((run / "run.json").read_text())["data"]["tokenizer"])
    text = ours.decode(range(ours.vocab_size)) + "to be or"
    ids = theirs(text)["input_ids"]
    assert ids == [int(token) for token in ours.encode(text)]
    assert theirs.decode(ids) == text
    assert theirs.vocab_size == ours.vocab_size
    with pytest.raises(Exception, match="UNK"):  # tokenizers has no error of its own
        theirs("\u4f60")
    write = transformers.pipeline("text-generation", str(folder), device="cpu")
    assert write("to be", max_new_tokens=2)[0]["generated_text"].startswith("to be")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_an_export_is_the_run_to_the_bit(
    form: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(run, tmp_path / "out", form)
    assert same_bits(weights(folder), weights(run))
    for entry, more in (
        (evaluate.main, ("--split", "val")),
        (evaluate.main, ("--split", "train")),
        (sample.main, ("--prompt", "to be", "--tokens", "20")),
    ):
        said = printed(capsys, entry, "--run", str(run), *more)
        assert printed(capsys, entry, "--run", str(folder), *more) == said


def test_the_best_checkpoint_may_be_exported(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "out", "sparse", "--best")
    assert open_stored(folder, best=False).weights.step == 4
    assert same_bits(weights(folder), weights(run, best=True))
    assert not same_bits(weights(folder), weights(run))


def test_negative_zeros_survive(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(run, tmp_path / "run"))

    def change(name: str, tensor: Tensor) -> None:
        if name == "transformer.h.1.mlp.c_fc.weight":
            tensor[tensor == 0.0] = -0.0

    tiny.rewrite(source, change)
    tensors = weights(source)
    count = sum(int(((t == 0.0) & t.signbit()).sum()) for t in tensors.values())
    assert count > 500
    capsys.readouterr()
    folder = exported(source, tmp_path / "out", "sparse")
    assert f"{count:,} of the zeros are negative" in capsys.readouterr().out
    assert same_bits(weights(folder), tensors)


def test_an_export_may_be_exported(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "sparse", "sparse")
    for form in ("hf", "dense"):
        direct = exported(run, tmp_path / f"{form}1", form)
        again = exported(folder, tmp_path / f"{form}2", form)
        for path in direct.iterdir():
            assert (again / path.name).read_bytes() == path.read_bytes()


def start_of(data: Path, run: Path, source: Path) -> dict[str, Tensor]:
    """The weights that a run without a rate ends with, which are those it began with."""
    more = ("--max-steps", "1", "--learning-rate", "0", "--init-from", str(source))
    assert tiny.train(data, run, *more) == Exit.OK
    return dict(store.load(run / "checkpoints" / "step-00000001").model)


@pytest.mark.slow
def test_a_run_starts_from_an_export(data: Path, run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "sparse", "sparse")
    alone = Path(shutil.copy(folder / "model.sparse.safetensors", tmp_path / "w.safetensors"))
    sources = (
        folder,
        folder / "model.sparse.safetensors",
        alone,
        exported(run, tmp_path / "dense", "dense"),
        exported(run, tmp_path / "hf", "hf"),
    )
    for number, source in enumerate(sources):
        assert same_bits(start_of(data, tmp_path / f"run{number}", source), weights(run))


def test_bf16_rounds_to_the_nearest(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "out", "sparse", "--dtype", "bf16")
    rounded = {name: tensor.bfloat16() for name, tensor in weights(run).items()}
    assert same_bits(weights(folder), rounded)
    model = load_trained(folder, False, CPU).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same_bits(dict(model.state_dict()), {n: t.float() for n, t in rounded.items()})


def test_the_account_is_right(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    said = printed(capsys, export.main, "--run", str(run), "--format", "sparse", "--out", str(out))
    size = (out / "model.sparse.safetensors").stat().st_size
    tensors = weights(run)
    entries = sum(tensor.numel() for tensor in tensors.values())
    zeros = sum(int((tensor == 0.0).sum()) for tensor in tensors.values())
    assert f"exported step 6 of {run.resolve()} to {out}" in said
    assert f"75.00% of the attention and MLP matrices, {zeros / entries:.2%} of all" in said
    share = f"{size / (4 * entries):.1%} of the size of all weights unpacked in fp32"
    assert f"{size:,} bytes, {share} ({4 * entries:,} bytes)" in said


def test_an_export_in_its_run_is_named_once_from_where_one_stands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "latest").symlink_to("one")
    monkeypatch.chdir(tmp_path)
    said = printed(capsys, export.main, "--run", "runs/latest")
    assert said.splitlines()[0] == "exported step 6 to runs/one/export/hf"


def test_the_folder_is_found_in_the_run_by_default(run: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(run, tmp_path / "run"))
    (tmp_path / "latest").symlink_to("run")
    for more, name in (((), "dense"), (("--best", "--dtype", "bf16"), "dense-best-bf16")):
        assert export.main(["--run", str(tmp_path / "latest"), "--format", "dense", *more]) == 0
        assert (source / "export" / name / "export.json").is_file()
        with pytest.raises(UserError, match="already exists; --force replaces an export, or"):
            export.main(["--run", str(source), "--format", "dense", *more])


def test_an_export_among_runs_is_no_unfinished_run(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", "sparse")
    assert runs.unfinished(tmp_path) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


FILES = ("config", "run.json", "export.json", "MANIFEST.json")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sparse", "dense"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damage_is_refused_and_named(
    damage: Callable[[Path], object], form: str, data: Path, run: Path, tmp_path: Path
) -> None:
    good = exported(run, tmp_path / "good", form)
    names = (*FILES, *(path.name for path in good.glob("*.safetensors")))
    assert len(names) == len(list(good.iterdir()))
    for name in names:
        folder = Path(shutil.copytree(good, tmp_path / name))
        damage(folder / name)
        for entry in (sample.main, evaluate.main):
            with pytest.raises(UserError) as error:
                entry(["--run", str(folder)])
            assert error.value.code == Exit.CHECKPOINT
            assert name in str(error.value)
        with pytest.raises(UserError) as error:
            tiny.train(data, tmp_path / "new", *STEPS, "--init-from", str(folder))
        assert error.value.code == Exit.CHECKPOINT
        assert name in str(error.value)
        assert not (tmp_path / "new").exists()


def test_a_lone_sparse_file_that_is_damaged_is_no_start(
    data: Path, run: Path, tmp_path: Path
) -> None:
    folder = exported(run, tmp_path / "out", "sparse")
    alone = Path(shutil.copy(folder / "model.sparse.safetensors", tmp_path / "w.safetensors"))
    content = bytearray(alone.read_bytes())
    content[-1] ^= 1
    alone.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"w\.safetensors is damaged: the SHA-256") as error:
        tiny.train(data, tmp_path / "new", *STEPS, "--init-from", str(alone))
    assert error.value.code == Exit.CHECKPOINT
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["sparse", "dense", "hf"])
def test_a_full_disk_leaves_nothing(
    form: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = []

    def full(name: str) -> None:
        passed.append(name)
        if len(passed) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(faults, "failpoint", full)
    with pytest.raises(UserError, match=r"--out .*out: cannot be written \(No space left") as error:
        exported(run, tmp_path / "out", form)
    assert error.value.code == Exit.CONFIG
    assert list(tmp_path.iterdir()) == []


def test_force_keeps_the_old_export_until_the_new_one_is_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(run, tmp_path / "out", "dense")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(faults, "failpoint", full)
        with pytest.raises(UserError, match="nothing was changed"):
            exported(run, folder, "dense", "--force")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    exported(run, folder, "sparse", "--force")
    assert (folder / "model.sparse.safetensors").is_file()
    assert not (folder / "model.safetensors").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_export_left_goes(run: Path, tmp_path: Path) -> None:
    for name in (".tmp-out-99999999", ".tmp-out-bf16-99999999"):
        (tmp_path / name).mkdir()
    exported(run, tmp_path / "out", "dense")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-out-bf16-99999999", "out"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "onnx"], "--format 'onnx': there are hf, sparse, dense"),
        (["--format", "hf", "--dtype", "int8"], "--dtype 'int8': there are fp32, bf16"),
        (["--format", "hf", "--out", ""], "--out: a path is needed"),
        (["--format", "hf", "--ouch", "x"], "unknown flag --ouch"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, run: Path) -> None:
    with pytest.raises(UserError) as error:
        export.main(["--run", str(run), *arguments])
    (message,) = error.value.messages
    assert said in message
    assert "\n" not in message
    assert error.value.code == Exit.CONFIG


def test_folders_that_cannot_be_used(data: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=f"--out .*{name} already exists"):
            exported(run, tmp_path / name, "hf")
    assert (tmp_path / "full" / "mine").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    exported(run, tmp_path / "empty", "hf")
    with pytest.raises(UserError, match="is not a run directory"):
        exported(tmp_path / "full", tmp_path / "out", "hf")
    folder = exported(run, tmp_path / "sparse", "sparse")
    with pytest.raises(UserError, match=r"--best: .* is an export"):
        evaluate.main(["--run", str(folder), "--best"])
    with pytest.raises(UserError, match="is not a run of this program"):
        tiny.train(data, folder, *STEPS)


@pytest.fixture
def words_run(tmp_path: Path) -> Path:
    """A run in GPT-2's tokens."""
    text = "ROMEO:\nBut soft, what light through yonder window breaks?\n" * 30
    source = {"address": "a test", "sha256": "0" * 64}
    prepare(WholeText(text, source, Gpt2Tokenizer()), tmp_path / "data" / "text", "text")
    more = ("--tokenizer", "gpt2", "--max-steps", "1")
    assert tiny.train(tmp_path / "data", tmp_path / "run", *more) == Exit.OK
    return tmp_path / "run"


def test_the_page_loads_it_in_transformers(words_run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = words_run / "export" / "hf"
    assert export.main(["--run", str(words_run), "--format", "hf"]) == Exit.OK
    page = (tiny.REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert code.count('"runs/latest/export/hf"') == 1
    code = code.replace("runs/latest/export/hf", str(folder)).replace("=20", "=3")
    found: dict[str, Any] = {}
    exec(compile(code, "docs/export.md", "exec"), found)
    assert isinstance(found["model"], transformers.GPT2LMHeadModel)
    assert found["text"].startswith("ROMEO:")
    assert found["model"].generation_config.eos_token_id == 50256
    ours, theirs = losses(words_run, folder)
    assert theirs == pytest.approx(ours, abs=1e-5)
