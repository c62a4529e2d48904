"""TinyStories: two million stories in the words of small children, by GPT-3.5 and GPT-4."""

from __future__ import annotations

from gpt2.data.corpus import Corpus, Request
from gpt2.data.sources.hub import Repository, open_repository

TOKENIZERS = ("gpt2",)
# Its validation file is not read: stories occur more than once, and a hash puts equal ones into
# one split, while the published split does not.
REPOSITORY = Repository(
    dataset="tinystories",
    name="roneneldan/TinyStories",
    files="data/train-*.parquet",
    licence="CDLA-Sharing-1.0",
    download_bytes=0.99e9,
    text_bytes=1.92e9,
    held_out_one_in=100,
)


def open_corpus(request: Request) -> Corpus:
    """Open it on the hub, or in --input; UserError (DATA) when neither can be read."""
    return open_repository(REPOSITORY, request)
