"""scripts/matrix.py with tests/fake_cell.py for train.py, quick to look at its processes."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from gpt2.config.errors import run_entry  # noqa: E402
from scripts import matrix, matrix_process, matrix_run  # noqa: E402

TRAIN = (sys.executable, str(REPOSITORY / "tests" / "fake_cell.py"))

if __name__ == "__main__":
    matrix.TRAIN = TRAIN
    matrix.REPORT = Path("/nonexistent")
    matrix_run._LOOK = 0.01
    matrix_process.GRACE = 1.0
    run_entry("matrix.py", lambda: matrix.main(sys.argv[1:]))
