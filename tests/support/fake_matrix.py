"""scripts/matrix.py with fake_cell.py for train.py, quick to look at its processes.

With TRUE_CELLS=1 in the environment it starts train.py, and is as quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from gpt2.config.entry import run_entry  # noqa: E402
from scripts import matrix  # noqa: E402
from scripts.study import actions, claims, owners, process, runner  # noqa: E402
from scripts.study.slurm import commands, script  # noqa: E402

TRAIN = (sys.executable, str(REPOSITORY / "tests" / "support" / "fake_cell.py"))

if __name__ == "__main__":
    if os.environ.get("TRUE_CELLS") != "1":
        actions.TRAIN = TRAIN
    actions.REPORT = Path("/nonexistent")
    runner._LOOK = 0.01
    process.GRACE = 1.0
    script.ENTRY = Path(__file__)
    claims.BEAT, claims.SILENT, owners._LOOK, commands._FRESH = 1.0, 5.0, 0.3, 1.0
    run_entry("matrix.py", lambda: matrix.main(sys.argv[1:]))
