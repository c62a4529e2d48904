"""The content of run.json at the start of a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt2.checkpoint import store
from gpt2.config import code_hash
from gpt2.config.typed import Config
from gpt2.config.version import VERSION
from gpt2.data.meta import Meta
from gpt2.machine import device
from gpt2.run_dir.folder import RunFolder, now, read_json
from gpt2.session.exactness import changed_conditions, kept, not_exact
from gpt2.training.loop import Parts


def run_record(
    folder: RunFolder,
    config: Config,
    parts: Parts,
    data: Meta,
    began: Mapping[str, str] | None,
    again: bool,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Return the record of a new session, with the entries that earlier sessions left in it.

    began: path and sha256 of the initial weights.
    again: a later attempt of a session that has recorded itself already.

    Where the conditions changed, `determinism` becomes "statistical", `moved` lists the changes,
    and `warn` gets the new ones.
    """
    known = (folder.path / "run.json").exists()
    earlier = read_json(folder.path, "run.json") if known else {}
    record = {
        "status": "running",
        "exit_code": None,
        "start": earlier.get("start", now()),
        "end": None,
        "resumes": [*earlier.get("resumes", []), *([now()] if known and not again else [])],
        "seed": config.train.seed,
        "planned_steps": parts.schedule.steps,
        "ranks": parts.ranks.world_size,
        "effective_batch": parts.batches.effective_batch,
        "micro_batch": config.train.batch_size,
        "lowered": earlier.get("lowered", []),
        "version": VERSION,
        "code": _all_code(earlier.get("code"), code_hash.code_hash()),
        "precision": parts.precision.name,
        "precision_why": parts.precision.why or None,
        "compiled": False,
        "compile_failure": None,
        "data": {
            "dataset": data.dataset,
            "data_hash": data.data_hash,
            "source": data.source,
            "tokenizer": data.tokenizer,
            **_places(earlier.get("data"), "folder", str(config.data.data_dir)),
        },
        "init_from": _weights(earlier.get("init_from"), config.model.init_from, began),
        **device.describe(parts.precision.device),
    }
    record["moved"] = kept(earlier, "moved", list)
    if not any(store.steps(folder.checkpoints)):  # only step 0, or nothing: all is computed anew
        return record
    changed = (
        changed_conditions(earlier, record) if known else ["conditions that run.json does not tell"]
    )
    if changed:
        warn(not_exact(changed))
        record["moved"] = [*record["moved"], *changed]
    if changed or earlier.get("determinism") == "statistical":
        record["determinism"] = "statistical"
    return record


def _weights(
    before: Any, asked: Path | None, began: Mapping[str, str] | None
) -> dict[str, Any] | None:
    """Return the initial weights of a run; when it resumes, as recorded at its start."""
    known = before if isinstance(before, dict) else began
    if asked is None or known is None:
        return None
    place = known["path"]
    if not Path(place).exists():  # it has moved, and has the same content
        place = str(asked)
    return {"sha256": known["sha256"], **_places(before, "path", place)}


def _places(before: Any, kind: str, place: str) -> dict[str, Any]:
    """Return the current path of a `kind` of place, and its paths in earlier sessions."""
    known, earlier = before if isinstance(before, dict) else {}, f"earlier_{kind}s"
    was = [one for one in (*known.get(earlier, []), known.get(kind)) if one]
    was = [one for one in dict.fromkeys(was) if one != place]
    return {kind: place, **({earlier: was} if was else {})}


def _all_code(before: str | None, now: str) -> str:
    """Return the hash of the run's code; joined by "+" where the code changed between sessions."""
    if before is None or before.endswith(now):
        return before or now
    return f"{before}+{now}"
