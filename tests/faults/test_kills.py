"""kill -9 and SIGTERM at random instants of a training change no bit of it; more: make torture.

A matrix under the same treatment is in scripts/study/test_kills.py.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

#: In a process of its own: one that forks must have no threads, and pytest's has.
CODE = """
import random, sys
from pathlib import Path
from tests.support import kills
folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
data, more = kills.prepared(folder / "data"), kills.HARD
whole = kills.quietly_trained(data, folder / "whole" / "run", more)
done = kills.trained_and_killed(
    data, folder / "killed" / "run", more, random.Random(seed), count, 1.2 * whole
)
print(sum(done.values()), kills.differences(folder / "whole" / "run", folder / "killed" / "run"))
"""


@pytest.mark.long
def test_random_kills_change_no_bit(tmp_path: Path) -> None:
    """Rows 1 to 3 and 10, at instants that nobody chose."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(random.Random(7).randrange(100)), "5"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY),
             "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, _, differences = done.stdout.splitlines()[-1].partition(" ")
    assert int(count) >= 1
    assert differences == "[]"
