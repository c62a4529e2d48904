"""OpenWebText: eight million web pages linked from Reddit, an open copy of GPT-2's corpus."""

from __future__ import annotations

from gpt2.data.corpus import Corpus, Request
from gpt2.data.sources.hub import Repository, open_repository

TOKENIZERS = ("gpt2",)
REPOSITORY = Repository(
    dataset="openwebtext",
    name="Skylion007/openwebtext",
    files="plain_text/train-*.parquet",
    licence="CC0-1.0 for the collection; the pages are their authors'",
    download_bytes=24e9,
    text_bytes=39.8e9,
    held_out_one_in=200,
)


def open_corpus(request: Request) -> Corpus:
    """Open the corpus on the hub, or in --input; UserError (DATA) when neither can be read."""
    return open_repository(REPOSITORY, request)
