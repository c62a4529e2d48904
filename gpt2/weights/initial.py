"""Find the initial weights of a run, from --init-from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config
from gpt2.data.meta import Meta
from gpt2.data.tokenizer import Gpt2Tokenizer
from gpt2.files.json import mismatch
from gpt2.files.manifest import MANIFEST, DamagedError
from gpt2.run_dir.folder import ADVICE, read_json
from gpt2.run_dir.latest import meant
from gpt2.run_dir.resume import load_config
from gpt2.weights.export_folder import is_export, load_export
from gpt2.weights.foreign import open_foreign
from gpt2.weights.pretrained import SHAPE, Pretrained
from gpt2.weights.trained import warn

#: Share of zeros above which a model counts as pruned; trained ones have almost none.
_PRUNED = 0.01


def find_weights(
    config: Config, data: Meta, run_dir: Path | None, say: Callable[[str], None] = warn
) -> Pretrained | None:
    """Open and check the weights of --init-from; call `say` with warnings.

    Returns None without --init-from, and when the run in `run_dir` resumes from its own checkpoint.
    A run that has begun uses its original weights, which may have moved. Raises UserError.
    """
    path = config.model.init_from
    if path is None:
        return None
    if run_dir is None or not (run_dir / "config").is_file():
        return _found(config, meant(path), data, say)
    own, before = bool(store.steps(run_dir / "checkpoints")), load_config(run_dir).model.init_from
    if own and path == before:
        return None
    began = _began(run_dir)
    if path == before and began and Path(began["path"]).exists():
        path = Path(began["path"])  # runs/latest may be this run by now
    found = _found(config, meant(path), data, (lambda _: None) if own else say)
    if began is None and path != before:
        why = f"it has no hash of those in {before}"
    elif began and began["sha256"] != found.sha256:
        why = f"hash {began['sha256'][:12]}, not {found.sha256[:12]}"
    else:
        return None if own else found
    raise UserError(
        f"--init-from {path}: not known as the weights that the run in {run_dir} began from ({why})"
        f": give --init-from {before} as before, or choose another --run-dir"
    )


def _began(run: Path) -> dict[str, str] | None:
    """Return path and sha256 of a run's initial weights; None where not recorded."""
    if not (run / "run.json").exists():
        return None
    found: dict[str, str] | None = read_json(run, "run.json").get("init_from")
    if found is not None and mismatch(found, {"path": str, "sha256": str}):
        raise UserError(f"{run / 'run.json'}: what it says of --init-from is damaged; {ADVICE}")
    return found


def _found(config: Config, path: Path, data: Meta, say: Callable[[str], None]) -> Pretrained:
    """Open and check the weights in `path`."""
    folder = path if path.is_dir() else path.parent
    if is_export(folder):
        found = _of_run(path, folder, data, lambda: load_export(folder))
    elif any((folder / name).is_file() for name in (MANIFEST, "state.json")):
        found = _of_run(path, folder.parent.parent, data, lambda: store.load(folder))
    elif path.is_dir() and (path / "checkpoints").is_dir():
        parent = path / "checkpoints"
        found = _of_run(path, path, data, lambda: store.load_last(parent, say))
    else:
        found = open_foreign(path)
        if not found.shape:
            say(
                f"--init-from {path}: no config.json beside it, and the file does not say how "
                f"many heads the model has: taking --n-head {config.model.n_head}"
            )
    found.check(config.model, data.vocab_size, data.tokenizer["name"] == Gpt2Tokenizer.name)
    if beyond := found.rows_beyond(data.vocab_size):
        say(
            f"--init-from {path}: its vocabulary was extended or padded: {beyond:,} rows of the"
            f" embedding beyond the {data.vocab_size:,} ids of GPT-2 are left out"
        )
    if config.model.keep_sparsity:
        if not found.has_zeros():
            raise UserError(
                f"--keep-sparsity: {path} has no zeros in its attention and MLP matrices, nor in "
                "its token embedding: give --init-from a pruned model, or leave --keep-sparsity out"
            )
    elif (share := found.zero_share()) >= _PRUNED:
        fate = "this run fills them in; --keep-sparsity keeps them"
        if config.prune is not None:
            fate = f"--pruning-method {config.prune.pruning_method} chooses zeros of its own"
        say(
            f"--init-from {path}: {share:.1%} of the weights of its blocks are zero, as of a pruned"
            f" model: {fate} (docs/fine-tuning.md)"
        )
    return found


def _of_run(
    path: Path, run: Path, data: Meta, load: Callable[[], store.Checkpoint | None]
) -> Pretrained:
    """Open the verified checkpoint that `load` returns, of the run or export in `run`."""
    try:
        found = load()
    except DamagedError as error:
        raise UserError(f"--init-from {path}: {error}", code=Exit.CHECKPOINT) from error
    if found is None:
        raise UserError(f"--init-from {path}: this run has no checkpoint", code=Exit.CHECKPOINT)
    shape = {name: getattr(load_config(run).model, name) for name in SHAPE}
    theirs = read_json(run, "run.json")["data"]["tokenizer"]
    if _meaning(theirs) != _meaning(data.tokenizer):
        raise UserError(
            f"--init-from {path}: its tokens are not those of the data: {_words(theirs)} there, "
            f"{_words(data.tokenizer)} here (--dataset, --tokenizer)"
        )
    return Pretrained(path, found.model, conv1d=False, shape=shape)


def _meaning(tokenizer: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(tokenizer.get(name) for name in ("name", "vocab_size", "characters"))


def _words(tokenizer: Mapping[str, Any]) -> str:
    return f"{tokenizer['name']} with {tokenizer['vocab_size']}"
