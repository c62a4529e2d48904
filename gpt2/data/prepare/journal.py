"""How far a preparation came, so that a killed one goes on: a file beside its shards."""

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
    """What was on the disk at one moment.

    `identity` is that of the corpus and of all that decides its ids, `position` how far it was
    read, `empty` its empty documents up to there, `shards` those of each split; the last of them
    may be one that is not full.
    """

    identity: str
    position: Position
    empty: int
    shards: dict[str, list[Shard]]


def identity(**parts: Any) -> str:
    """Return one SHA-256 for all that decides which ids come out."""
    text = json.dumps({"journal": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: Path, journal: Journal) -> None:
    """Replace the journal in `folder`, so that there is always a whole one. Raises OSError."""
    replace_file(folder / NAME, json.dumps(asdict(journal), indent=1) + "\n")


def load(folder: Path) -> Journal | None:
    """Return the journal in `folder`, None where there is none that can be read."""
    try:
        raw = read_object(folder / NAME)
        shards = {
            split: [Shard(**shard) for shard in raw["shards"][split]] for split in raw["shards"]
        }
        return Journal(str(raw["identity"]), Position(**raw["position"]), int(raw["empty"]), shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
