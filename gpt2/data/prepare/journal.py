"""The journal of a preparation, from which a killed one resumes: a file beside its shards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpt2.data.meta import Shard
from gpt2.data.prepare.chunking import Position
from gpt2.files.atomic import replace_file
from gpt2.files.json import read_object

NAME = "journal.json"
_FORMAT = 1


@dataclass(frozen=True)
class Journal:
    """What was on disk at one moment.

    `identity` is that of the corpus and of everything else that determines its ids. `position` says
    how far it was read, with `empty` empty documents. `shards` are those of each split; the last
    may not be full.
    """

    identity: str
    position: Position
    empty: int
    shards: dict[str, list[Shard]]


def identity(**parts: Any) -> str:
    """Return one SHA-256 over everything that determines the ids."""
    text = json.dumps({"journal": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, journal: Journal) -> None:
    """Replace the journal in `folder` atomically.

    Raises OSError.
    """
    replace_file(folder / NAME, json.dumps(asdict(journal), indent=1) + "\n")


def load(folder: Path) -> Journal | None:
    """Return the journal in `folder`, or None where none can be read."""
    try:
        raw = read_object(folder / NAME)
        shards = {
            split: [Shard(**shard) for shard in raw["shards"][split]] for split in raw["shards"]
        }
        return Journal(str(raw["identity"]), Position(**raw["position"]), int(raw["empty"]), shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
