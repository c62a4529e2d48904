"""Measure a trained model: run directory -> loss and perplexity over a whole split."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("evaluate.py")

from collections.abc import Sequence

from gpt2.config.actions import EvaluateActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError

#: What the numbers mean.
UNITS = (
    "lower is better; loss: -log(probability of the right token), on average; perplexity: "
    "e^loss, as if choosing among that many equally likely tokens; bits per byte: comparable "
    "between tokenizers"
)
#: The options of a run that apply here.
OPTIONS = ("DATA_DIR", "PRECISION", "BATCH_SIZE", "DEVICE", "DEVICE_INDEX", "NUM_THREADS")


def main(argv: Sequence[str]) -> int:
    """Print the loss over the split; return the exit code.

    Raises UserError.
    """
    options, actions = parse(
        "evaluate.py", "Measure a trained model.", argv, EvaluateActions, OPTIONS
    )
    config = bind(options)
    from gpt2.data.batches import validation_batches
    from gpt2.data.meta import META
    from gpt2.data.tokens import open_split
    from gpt2.model.loss import IGNORED
    from gpt2.optim.precision import DTYPES, Precision, resolve_precision
    from gpt2.training.evaluation import bits_per_byte, evaluate, perplexity
    from gpt2.weights.trained import load_trained

    trained = load_trained(actions.run, actions.best, config.machine)
    print(trained.name, file=sys.stderr)
    data_dir = config.data.data_dir if "DATA_DIR" in options.given else None
    folder = (data_dir or trained.config.data.data_dir) / trained.config.data.dataset
    if data_dir is None and not (folder / META).is_file():
        raise UserError(
            f"the data of this run are not in {folder} any more: name the folder that holds them"
            " by --data-dir",
            code=Exit.DATA,
        )
    split = open_split(folder, actions.split, 1)
    theirs, ours = trained.record["data"], split.meta
    if (ours.data_hash, ours.tokenizer) != (theirs["data_hash"], theirs["tokenizer"]):
        raise UserError(
            f"the data in {folder} are not those the run was trained on; name theirs by --data-dir",
            code=Exit.DATA,
        )
    asked = config.optim.precision
    if asked == "auto" and trained.device.type == trained.record["device"].partition(":")[0]:
        asked = trained.record["precision"]  # the run's own precision: the same number again
        if asked not in DTYPES:
            raise UserError(
                f"{actions.run / 'run.json'}: precision {asked!r}, not one of {', '.join(DTYPES)}: "
                "it was edited or damaged; give --precision"
            )
    precision = Precision(resolve_precision(asked, trained.device), trained.device)
    batch = config.train.batch_size
    if "BATCH_SIZE" not in options.given:
        batch = trained.config.train.eval_batch_size or trained.config.train.batch_size
    block = trained.config.model.block_size
    batches = validation_batches(split, block, batch, trained.device)
    loss = evaluate(trained.model, batches, IGNORED, precision.autocast)
    assert loss is not None
    bits = bits_per_byte(loss, len(split.ids) - 1, split.text_bytes)
    print(
        f"step {trained.step}, {actions.split}: loss {loss:.6f} nats per token, "
        f"perplexity {perplexity(loss):.4f}, {bits:.6f} bits per byte ({precision.name})"
    )
    print(UNITS)
    return 0


if __name__ == "__main__":
    run_entry("evaluate.py", lambda: main(sys.argv[1:]))
