from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.files.lock import HeldError, holder, lock_folder
from tests.conftest import REPOSITORY


def test_one_process_holds_a_folder_and_says_who_it_is(tmp_path: Path) -> None:
    with lock_folder(tmp_path, "it", "advice"):
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "):
            lock_folder(tmp_path, "it", "advice")
    assert holder(tmp_path) == ""
    lock_folder(tmp_path, "it", "advice").close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from gpt2.files.lock import lock_folder; "
        "lock = lock_folder(Path(sys.argv[1]), 'it', 'advice'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -9
    assert holder(tmp_path) == ""
    lock_folder(tmp_path, "it", "advice").close()


def test_a_folder_that_is_not_there_is_held_by_nobody(tmp_path: Path) -> None:
    assert holder(tmp_path / "nothing") == ""
