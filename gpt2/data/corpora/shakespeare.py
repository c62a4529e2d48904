"""Tiny Shakespeare in GPT-2's byte-pair encoding: one text, its last tenth held out."""

from __future__ import annotations

from pathlib import Path

from gpt2.config.errors import Exit, UserError
from gpt2.data.corpus import Corpus, Request, WholeText
from gpt2.data.sources import shakespeare
from gpt2.data.tokenizer import Gpt2Tokenizer

TOKENIZERS = ("gpt2",)


def check_input(path: Path) -> None:
    """Check that --input is an edition of this text.

    Raises UserError (DATA).
    """
    shakespeare.check_input(path)


def open_corpus(request: Request) -> Corpus:
    """Open the bundled text, or --input.

    Raises UserError (DATA).
    """
    if request.tokenizer not in (None, *TOKENIZERS):
        raise UserError(
            f"--tokenizer {request.tokenizer}: --dataset shakespeare is in GPT-2's encoding; use"
            " --dataset shakespeare-char",
            code=Exit.DATA,
        )
    found = shakespeare.read(request)
    return WholeText(found.text, found.source, Gpt2Tokenizer())
