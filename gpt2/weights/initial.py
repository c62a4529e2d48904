"""The weights that a run starts from, found where --init-from points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2.checkpoint import store
from gpt2.config.errors import Exit, UserError
from gpt2.config.typed import Config
from gpt2.data.meta import Meta
from gpt2.data.tokenizer import Gpt2Tokenizer
from gpt2.files.manifest import MANIFEST, DamagedError
from gpt2.run_dir.folder import read_json
from gpt2.run_dir.latest import meant
from gpt2.run_dir.resume import load_config
from gpt2.weights.export_folder import is_export, load_export
from gpt2.weights.foreign import open_foreign
from gpt2.weights.pretrained import SHAPE, Pretrained
from gpt2.weights.trained import warn

#: Share of zeros from which a model was pruned; a trained one has next to none.
_PRUNED = 0.01


def find_weights(
    config: Config, data: Meta, run_dir: Path | None, say: Callable[[str], None] = warn
) -> Pretrained | None:
    """Open and check what --init-from names. Raises UserError; `say` is given warnings.

    None when it names nothing, and when the run in `run_dir` goes on from a checkpoint of its own.
    """
    path = config.model.init_from
    if path is None or (run_dir is not None and store.steps(run_dir / "checkpoints")):
        return None
    path = meant(path)
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
                f"--init-from {path}: there is no config.json beside it, and a file does not say "
                f"how many heads there are; --n-head {config.model.n_head} is taken to be right"
            )
    found.check(config.model, data.vocab_size, data.tokenizer["name"] == Gpt2Tokenizer.name)
    if beyond := found.rows_beyond(data.vocab_size):
        say(
            f"--init-from {path}: its vocabulary was extended or padded: {beyond:,} rows of the"
            f" embedding beyond the {data.vocab_size:,} ids of GPT-2 are left out"
        )
    if (share := found.zero_share()) >= _PRUNED:
        fate = "this run prunes nothing, and fills them in"
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
    """Open what `load` gives of the run or export in `run`; its bytes are verified."""
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
