"""TinyStories: two million stories in simple words, written by GPT-3.5 and GPT-4."""

from __future__ import annotations

from gpt2.data.corpus import Corpus, Request
from gpt2.data.sources.hub import Repository, open_repository

TOKENIZERS = ("gpt2",)
# The published validation file is not used: stories occur more than once. A hash puts equal stories
# into one split; the published split does not.
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
    """Open the corpus on the hub, or in --input; UserError (DATA) when neither can be read."""
    return open_repository(REPOSITORY, request)
