"""Write text with a trained model: run directory and prompt -> text."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("sample.py")

from collections.abc import Sequence

from gpt2.config.actions import SampleActions
from gpt2.config.bind import bind
from gpt2.config.cli import parse
from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError

#: The options of a run that apply here.
OPTIONS = ("DEVICE", "DEVICE_INDEX", "NUM_THREADS")


def main(argv: Sequence[str]) -> int:
    """Print the prompt and the text that follows it; return the exit code."""
    options, actions = parse(
        "sample.py", "Write text with a trained model.", argv, SampleActions, OPTIONS
    )
    config = bind(options)
    from gpt2.data.tokenizer import END_OF_TEXT, from_description
    from gpt2.model.generate import Sampling, stream
    from gpt2.weights.trained import load_trained, warn

    trained = load_trained(actions.run, actions.best, config.machine)
    print(trained.name, file=sys.stderr)
    tokenizer = from_description(trained.record["data"]["tokenizer"])
    known = trained.record["data"]["tokenizer"].get("characters")
    if known and (strange := [char for char in actions.prompt if char not in known]):
        raise UserError(
            f"--prompt: this model does not know {strange[0]!r} (U+{ord(strange[0]):04X}); "
            f"it only knows the characters {known!r}",
            code=Exit.DATA,
        )
    prompt = [int(token) for token in tokenizer.encode(actions.prompt)]
    if END_OF_TEXT in actions.prompt and tokenizer.end_of_text is not None:
        warn(
            f"--prompt: {END_OF_TEXT} in it is taken as text, as in training; an empty --prompt"
            " starts from the end of a document"
        )
    if not prompt:
        if tokenizer.end_of_text is None:
            raise UserError(
                "--prompt is empty: give at least one character; these data have no"
                " end-of-text to start from"
            )
        prompt = [tokenizer.end_of_text]
    sampling = Sampling(actions.temperature, actions.top_k, actions.top_p, actions.seed)
    steps = stream(trained.model, prompt, actions.tokens, sampling, actions.samples)
    if actions.samples == 1 and sys.stdout.isatty():
        # Print each piece at once, so that the user need not wait for the whole text.
        print(actions.prompt, end="", flush=True)
        for piece in tokenizer.decode_stream(token for (token,) in steps):
            print(piece, end="", flush=True)
        print()
        return 0
    for number, ids in enumerate(zip(*steps, strict=True), start=1):
        if actions.samples > 1:
            print(f"{f'--- sample {number} of {actions.samples} ':-<72}")
        print(actions.prompt + tokenizer.decode(ids))
    return 0


if __name__ == "__main__":
    run_entry("sample.py", lambda: main(sys.argv[1:]))
