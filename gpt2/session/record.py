"""run.json at the start of a session."""

from __future__ import annotations

from collections.abc import Callable
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
    again: bool,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Return the record of a session that begins, with what earlier ones have left in it.

    `again` is a further attempt of a session that has recorded itself already. Where a part of the
    run was computed in another way, `determinism` says so from the beginning, `moved` says in what,
    and `warn` is told of what is new.
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
        "compiled": False,
        "compile_failure": None,
        "data": {
            "dataset": data.dataset,
            "data_hash": data.data_hash,
            "source": data.source,
            "tokenizer": data.tokenizer,
            **_places(earlier.get("data"), str(config.data.data_dir)),
        },
        **device.describe(parts.precision.device),
    }
    record["moved"] = kept(earlier, "moved", list)
    if not any(store.steps(folder.checkpoints)):  # none but of step 0: all is computed anew
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


def _places(before: Any, folder: str) -> dict[str, Any]:
    """Return where the data of a run are, and where they were in earlier sessions."""
    known = before if isinstance(before, dict) else {}
    was = [place for place in (*known.get("earlier_folders", []), known.get("folder")) if place]
    was = [place for place in dict.fromkeys(was) if place != folder]
    return {"folder": folder, **({"earlier_folders": was} if was else {})}


def _all_code(before: str | None, now: str) -> str:
    """Return the hashes of the code that a run is of: of several, where it changed on the way."""
    if before is None or before.endswith(now):
        return before or now
    return f"{before}+{now}"
