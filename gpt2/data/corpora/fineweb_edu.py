"""FineWeb-Edu, the sample of ten billion tokens: web pages classified as educational."""

from __future__ import annotations

from gpt2.data.corpus import Corpus, Request
from gpt2.data.sources.hub import Repository, open_repository

TOKENIZERS = ("gpt2",)
REPOSITORY = Repository(
    dataset="fineweb-edu",
    name="HuggingFaceFW/fineweb-edu",
    files="sample/10BT/*.parquet",
    licence="ODC-By 1.0, and Common Crawl's terms of use",
    download_bytes=28e9,
    text_bytes=47e9,
    held_out_one_in=200,
)


def open_corpus(request: Request) -> Corpus:
    """Open the corpus on the hub, or in --input; UserError (DATA) when neither can be read."""
    return open_repository(REPOSITORY, request)
