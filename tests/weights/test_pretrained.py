"""Weights to start from: those that transformers writes, and ours, into the right places."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2 import export, prepare_data
from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import ModelConfig
from gpt2.model.build import build_model
from gpt2.model.gpt import GPT
from gpt2.weights.foreign import open_foreign
from tests.files.test_wrong_downloads import POINTER
from tests.support import tiny

transformers = pytest.importorskip("transformers")

VOCABULARY, POSITIONS = 20, 12
CPU = torch.device("cpu")
CONFIG = ModelConfig(
    model="custom",
    n_layer=2,
    n_head=2,
    n_embd=16,
    block_size=POSITIONS,
    dropout=0.0,
    bias=True,
    flash_attention=True,
    activation_checkpointing="none",
    residual_precision=None,
    loss="full",
    loss_chunk_mib=None,
    init_from=None,
    keep_sparsity=None,
)


def hugging_face(vocabulary: int = VOCABULARY, **changes: Any) -> Any:
    """A model of transformers, with every parameter moved away from its initial value."""
    shape = {"n_positions": POSITIONS, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(
        vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **(shape | changes)
    )
    torch.manual_seed(11)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def one_file(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def shards(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="6KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def published(model: Any, folder: Path) -> Path:
    """As openai-community/gpt2 lies there: the bare model's names, and causal masks."""
    one_file(model, folder)
    tensors = {n: t.clone() for n, t in model.transformer.state_dict().items()}
    for layer in (0, 1):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, POSITIONS, POSITIONS).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, folder / "model.safetensors")
    return folder


def lone_file(model: Any, folder: Path) -> Path:
    one_file(model, folder / "all")
    return Path(shutil.copy(folder / "all" / "model.safetensors", folder / "weights.safetensors"))


def pickled(model: Any, folder: Path) -> Path:
    one_file(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def pickled_file(model: Any, folder: Path) -> Path:
    torch.save(model.transformer.state_dict(), folder / "weights.pt")  # the bare model's names
    return folder / "weights.pt"


def half(model: Any, folder: Path) -> Path:
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    del tensors["lm_head.weight"]
    model.load_state_dict(tensors, strict=False)  # rounds what the logits are compared with
    return one_file(model.half(), folder)


def loaded(path: Path, **changes: Any) -> GPT:
    config = dataclasses.replace(CONFIG, **changes)
    weights = open_foreign(path)
    weights.check(config, VOCABULARY)
    return build_model(config, VOCABULARY, CPU, seed=1, fill=weights.copy_to).eval()


@torch.no_grad()
def assert_same(ours: GPT, theirs: Any, length: int) -> None:
    ids = torch.randint(VOCABULARY, (3, length), generator=torch.Generator().manual_seed(4))
    hidden = ours.hidden(ids)
    found = hidden @ ours.transformer.wte.weight.t()
    torch.testing.assert_close(found, theirs.float()(ids).logits, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    "write", [one_file, shards, published, lone_file, pickled, pickled_file, half]
)
def test_logits_are_those_of_transformers(
    write: Callable[[Any, Path], Path], tmp_path: Path
) -> None:
    theirs = hugging_face()
    assert_same(loaded(write(theirs, tmp_path)), theirs, POSITIONS)


def test_a_shorter_context_keeps_the_first_positions(tmp_path: Path) -> None:
    theirs = hugging_face()
    ours = loaded(one_file(theirs, tmp_path), block_size=5)
    assert ours.transformer.wpe.weight.shape == (5, 16)
    assert_same(ours, theirs, 5)


def spoilt(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """A folder of transformers whose tensors were changed."""
    one_file(hugging_face(), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def configured(folder: Path, **entries: Any) -> Path:
    """A folder of transformers whose config.json was changed."""
    one_file(hugging_face(), folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | entries))
    return folder


def refused(path: Path, **changes: Any) -> tuple[str, ...]:
    """The messages that refuse `path`, without what they begin with; the code is CONFIG."""
    with pytest.raises(UserError) as error:
        loaded(path, **changes)
    assert error.value.code == Exit.CONFIG
    assert all(text.startswith(f"--init-from {path}") for text in error.value.messages)
    return tuple(text.partition(": ")[2] for text in error.value.messages)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("activation_function", "relu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("n_inner", 32),
    ],
)
def test_what_computes_something_else_is_refused(entry: str, value: Any, tmp_path: Path) -> None:
    (text,) = refused(configured(tmp_path, **{entry: value}))
    assert text.startswith(f"{entry} is {value!r}, this program computes")


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    (text,) = refused(configured(tmp_path, model_type="llama"))
    assert text == "it describes a model of type 'llama'; only 'gpt2' can be taken over"


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_head": 4}, {"n_embd": 32}])
def test_another_shape_is_refused_with_the_flags(change: dict[str, int], tmp_path: Path) -> None:
    (text,) = refused(one_file(hugging_face(), tmp_path), **change)
    assert text.endswith("--model custom --n-layer 2 --n-head 2 --n-embd 16")


def test_tensors_that_do_not_fit_are_named_with_both_shapes(tmp_path: Path) -> None:
    (text,) = refused(one_file(hugging_face(21), tmp_path / "vocabulary"))
    assert "transformer.wte.weight has shape (21, 16), this model needs (20, 16)" in text
    assert "the vocabulary is not that of the data" in text
    (text,) = refused(one_file(hugging_face(), tmp_path / "block"), block_size=13)
    assert text == (
        "transformer.wpe.weight has 12 positions, which cannot grow to --block-size 13; "
        "give --block-size 12 or less"
    )
    name = "transformer.h.1.mlp.c_fc.weight"
    path = spoilt(tmp_path / "fc", lambda t: t.update({name: t[name].t()}))
    (text,) = refused(path)
    assert text == f"{name} has shape (16, 64) (out, in), this model needs (64, 16)"
    path = spoilt(tmp_path / "int", lambda t: t.update({name: t[name].to(torch.int8)}))
    assert refused(path) == (f"{name} holds torch.int8, not floating-point numbers",)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.score.weight"] = tensors.pop("transformer.ln_f.weight")

    missing, unexpected = refused(spoilt(tmp_path, change))
    assert missing == "tensors are missing: transformer.ln_f.weight"
    assert unexpected.endswith("does not have: transformer.score.weight")


def test_biases_must_be_in_both_or_in_none(tmp_path: Path) -> None:
    path = one_file(hugging_face(), tmp_path / "with")
    assert refused(path, bias=False) == (
        "it has biases, and --no-bias leaves them out; give --bias",
    )

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".bias")]:
            del tensors[name]

    path = spoilt(tmp_path / "without", change)
    assert refused(path) == ("it has no biases; give --no-bias",)
    loaded(path, bias=False)


def test_an_untied_head_is_refused_and_a_copy_of_the_tied_one_is_not(tmp_path: Path) -> None:
    wte, head = "transformer.wte.weight", "lm_head.weight"
    path = spoilt(tmp_path / "same", lambda t: t.update({head: t[wte].clone()}))
    assert_same(loaded(path), hugging_face(), 4)
    path = spoilt(tmp_path / "other", lambda t: t.update({head: t[wte] + 1.0}))
    assert refused(path) == (f"{head} differs from {wte}: only tied heads can be taken over",)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    assert "is not a model" in refused(tmp_path)[0]
    assert refused(tmp_path / "none") == ("no such file or folder",)
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    assert "neither a folder nor .safetensors" in refused(tmp_path / "weights.gguf")[0]
    one_file(hugging_face(), tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    assert refused(tmp_path / "bare")[0].startswith("it has none of model.safetensors")
    torch.save({"weights": hugging_face().state_dict(), "step": 3}, tmp_path / "nested.pt")
    assert refused(tmp_path / "nested.pt")[0].startswith("'weights' in it is not a tensor")


def test_a_published_name_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()  # a folder of that name, as the code's, may be in the way
    for name in ("gpt2", "gpt2-medium"):
        (text,) = refused(tmp_path / name)
        assert "nothing is downloaded by its name: docs/fine-tuning.md says which" in text
    page = (tiny.REPOSITORY / "docs" / "fine-tuning.md").read_text()
    assert "resolve/main/config.json" in page
    assert "resolve/main/model.safetensors" in page


@pytest.mark.parametrize("rows", [1, 47])
def test_rows_beyond_the_ids_are_left_out(rows: int, tmp_path: Path) -> None:
    theirs = hugging_face()
    theirs.resize_token_embeddings(VOCABULARY + rows, mean_resizing=False)
    weights = open_foreign(one_file(theirs, tmp_path))
    with pytest.raises(UserError, match="the vocabulary is not that of the data"):
        weights.check(CONFIG, VOCABULARY)  # of characters, say: the ids are others
    weights.check(CONFIG, VOCABULARY, same_tokens=True)
    assert weights.rows_beyond(VOCABULARY) == rows
    ours = build_model(CONFIG, VOCABULARY, CPU, seed=1, fill=weights.copy_to).eval()
    theirs.resize_token_embeddings(VOCABULARY)
    assert_same(ours, theirs, POSITIONS)
    fewer = open_foreign(one_file(hugging_face(VOCABULARY - 1), tmp_path / "fewer"))
    with pytest.raises(UserError, match="the vocabulary is not that of the data"):
        fewer.check(CONFIG, VOCABULARY, same_tokens=True)


@pytest.mark.slow
def test_a_padded_vocabulary_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "in.txt"
    text.write_text("to be or not to be, that is the question. " * 40)
    assert prepare_data.main(["--input", str(text), "--data-dir", str(tmp_path)]) == Exit.OK
    start = one_file(hugging_face(50304), tmp_path / "padded")
    flags = tiny.flags(tmp_path, tmp_path / "run", "--max-steps", "1", "--init-from", str(start))
    flags[flags.index("char")] = "gpt2"
    assert tiny.main(flags) == Exit.OK
    assert "47 rows of the embedding beyond the 50,257 ids" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_what_was_downloaded_in_their_place_is_named(name: str, tmp_path: Path) -> None:
    path = (pickled if name.endswith(".bin") else one_file)(hugging_face(), tmp_path)
    for content, said in ((POINTER, "git lfs pull"), (b"<html>", "web page"), (b"", "")):
        (path / name).write_bytes(content)
        assert said in damaged(path)


def damaged(path: Path) -> str:
    """The one message for damaged weights; the code is CHECKPOINT."""
    with pytest.raises(UserError) as error:
        loaded(path)
    assert error.value.code == Exit.CHECKPOINT
    (text,) = error.value.messages
    return text


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    path = shards(hugging_face(), tmp_path)
    gone = sorted(path.glob("model-*.safetensors"))[1]
    gone.unlink()
    assert damaged(path) == f"--init-from {path}: shards are missing: {gone.name}"


def test_a_shard_of_another_model_is_named(tmp_path: Path) -> None:
    path = shards(hugging_face(), tmp_path)
    first, second, *_ = sorted(path.glob("model-*.safetensors"))
    shutil.copy(first, second)
    assert f"{second.name} lacks transformer." in damaged(path)
    (path / "model.safetensors.index.json").write_text("[]")
    assert "model.safetensors.index.json cannot be read" in damaged(path)


@pytest.mark.parametrize("write", [one_file, shards, pickled, pickled_file])
@pytest.mark.parametrize("keep", [0.0, 0.7])
def test_a_truncated_file_is_damaged(
    write: Callable[[Any, Path], Path], keep: float, tmp_path: Path
) -> None:
    path = write(hugging_face(), tmp_path)
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.bin")]
    os.truncate(files[0], int(files[0].stat().st_size * keep))
    damaged(path)


def test_a_flipped_bit_in_a_bin_is_seen(tmp_path: Path) -> None:
    path = pickled_file(hugging_face(), tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert "the checksum of" in damaged(path)


def test_an_error_without_a_message_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise EOFError

    path = pickled_file(hugging_face(), tmp_path)
    monkeypatch.setattr(torch, "load", load)
    assert "it cannot be read (EOFError)" in damaged(path)


def test_numbers_that_are_not_finite_are_seen(tmp_path: Path) -> None:
    name = "transformer.h.0.ln_1.weight"
    path = spoilt(tmp_path, lambda tensors: tensors[name][3].fill_(float("inf")))
    assert damaged(path).endswith(f"{name} holds numbers that are not finite")


class Harmful:
    """Pickled, it is a program that makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    torch.save({"wte.weight": Harmful(tmp_path / "mark")}, tmp_path / "weights.pt")
    assert "would run as a program" in damaged(tmp_path / "weights.pt")
    assert not (tmp_path / "mark").exists()
    torch.load(tmp_path / "weights.pt", weights_only=False)
    assert (tmp_path / "mark").exists()  # it would have worked


def test_what_the_page_quotes_is_what_is_said() -> None:
    files = [
        *(f"gpt2/weights/{name}.py" for name in ("foreign", "pretrained", "initial")),
        "gpt2/files/wrong_downloads.py",
    ]
    sources = "".join((tiny.REPOSITORY / file).read_text() for file in files)
    said = re.sub(r'"\s*\n\s*f?"', "", sources)  # a text that is broken over lines
    page = (tiny.REPOSITORY / "docs" / "fine-tuning.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 10
    for text in quoted:
        pieces = [piece.strip() for piece in re.split(r"\.\.\.|\d.*", text) if piece.strip()]
        assert pieces
        assert all(piece in said for piece in pieces), text


STEPS = ("--max-steps", "4", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert tiny.train(data, path, *STEPS) == Exit.OK
    return path


def start_of(data: Path, run: Path, source: Path, *more: str) -> dict[str, Tensor]:
    """The weights that a run without a rate ends with, which are those it began with."""
    no_rate = ("--max-steps", "1", "--learning-rate", "0", "--init-from", str(source))
    assert tiny.train(data, run, *no_rate, *more) == Exit.OK
    return dict(store.load(run / "checkpoints" / "step-00000001").model)


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.slow
def test_a_run_starts_from_a_run_or_a_checkpoint(data: Path, run: Path, tmp_path: Path) -> None:
    newest = run / "checkpoints" / "step-00000004"
    wanted = dict(store.load(newest).model)
    for number, source in enumerate((run, newest, newest / "model.safetensors")):
        assert equal(start_of(data, tmp_path / f"run{number}", source), wanted)
    shorter = start_of(data, tmp_path / "shorter", run, "--block-size", "5")
    wanted["transformer.wpe.weight"] = wanted["transformer.wpe.weight"][:5]
    assert equal(shorter, wanted)


def test_a_run_starts_from_hugging_face(data: Path, run: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((run / "run.json").read_text())["data"]["tokenizer"]
    theirs = hugging_face(tokenizer["vocab_size"], n_positions=tiny.BLOCK)
    one_file(theirs, tmp_path / "theirs")
    began = start_of(data, tmp_path / "run", tmp_path / "theirs")
    name = "transformer.h.0.mlp.c_fc.weight"
    assert torch.equal(began[name], theirs.state_dict()[name].t())


@pytest.mark.slow
def test_a_run_that_goes_on_needs_the_weights_no_more(
    data: Path, run: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(run, tmp_path / "source"))
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    more = ("--init-from", str(source), "--checkpoint-interval", "2", *STEPS)
    assert tiny.train(data, straight, *more) == Exit.OK
    # Killed while it writes its second checkpoint.
    done = tiny.train_process(data, broken, *more, fault="checkpoint.rename:kill:2")
    assert done.returncode == -9, done.stderr
    shutil.rmtree(source)
    assert tiny.train(data, broken, *more) == Exit.OK
    assert tiny.checkpoint_bytes(broken) == tiny.checkpoint_bytes(straight)


def test_nothing_is_written_when_the_weights_are_refused(
    data: Path, run: Path, tmp_path: Path
) -> None:
    other = tiny.make_data(tmp_path / "other", characters=60)  # fewer characters in it
    for folder, source, code, said in (
        (data, tmp_path / "none", Exit.CONFIG, "no such file"),
        (other, run, Exit.CONFIG, "its tokens are not those of the data: char with"),
        (data, other, Exit.CONFIG, "this folder is not a model"),
    ):
        with pytest.raises(UserError, match=said) as error:
            tiny.train(folder, tmp_path / "run", *STEPS, "--init-from", str(source))
        assert error.value.code == code
        assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_no_start(data: Path, run: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(run, tmp_path / "source"))
    newest = source / "checkpoints" / "step-00000004"
    (newest / "optim.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"optim\.safetensors has 0 bytes") as error:
        tiny.train(data, tmp_path / "run", *STEPS, "--init-from", str(newest))
    assert error.value.code == Exit.CHECKPOINT
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used") as error:
        tiny.train(data, tmp_path / "run", *STEPS, "--init-from", str(source))
    assert error.value.code == Exit.CHECKPOINT
    assert not (tmp_path / "run").exists()


def test_the_head_count_of_a_run_counts(data: Path, run: Path, tmp_path: Path) -> None:
    more = (*STEPS, "--init-from", str(run), "--n-head", "4")
    with pytest.raises(UserError, match="2 layers, 2 heads and width 16"):
        tiny.train(data, tmp_path / "run", *more)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "random"])
def test_a_pruned_model_is_not_filled_in_without_a_word(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny.make_data(tmp_path)
    pruned = ["--pruning-method", "magnitude", "--target-sparsity", "0.7"]
    assert tiny.train(data, tmp_path / "a", "--max-steps", "4", *pruned) == Exit.OK
    export.main(["--run", str(tmp_path / "a"), "--format", "sparse"])
    assert tiny.train(data, tmp_path / "dense", "--max-steps", "1") == Exit.OK
    more = ["--pruning-method", method, "--max-steps", "1"]
    capsys.readouterr()
    for number, start in enumerate((tmp_path / "a", tmp_path / "a" / "export" / "sparse")):
        run = tmp_path / f"b{number}"
        assert tiny.train(data, run, "--init-from", str(start), *more) == Exit.OK
        err = capsys.readouterr().err
        fate = (
            "--keep-sparsity keeps them"
            if method == "none"
            else "--pruning-method random chooses zeros"
        )
        assert "70.0% of the weights of its blocks are zero" in err
        assert fate in err
    start = tmp_path / "dense"
    assert tiny.train(data, tmp_path / "c", "--init-from", str(start), *more) == Exit.OK
    assert "are zero" not in capsys.readouterr().err
