"""The split into training, validation and test: documents by a hash, a text by position."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "val", "test")  # of every corpus here
TRAIN_SHARE = 0.9  # of a text's characters; the rest is half validation, half test


def split_of(text: str, held_out_one_in: int) -> str:
    """Return the split of a document, by its content only.

    About one in `held_out_one_in` is held out, half for validation, half for test. So a document
    stays in its split when others are appended, and equal documents are in the same split.
    """
    digest = hashlib.sha256(text.encode()).digest()
    turn, rest = divmod(int.from_bytes(digest[:8], "big"), held_out_one_in)
    if rest:
        return "train"
    return "test" if turn % 2 else "val"


def split_characters(characters: int) -> dict[str, tuple[int, int]]:
    """Return where each split of one text of that many characters starts and ends."""
    train_end = int(TRAIN_SHARE * characters)
    middle = train_end + (characters - train_end + 1) // 2
    return {"train": (0, train_end), "val": (train_end, middle), "test": (middle, characters)}
