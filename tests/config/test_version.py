from __future__ import annotations

import pytest

from gpt2.config.version import VERSION
from gpt2.train import main
from tests.support.repository import REPOSITORY


def test_the_version_is_printed_and_has_its_changes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"train.py {VERSION}\n"
    assert f"\n## {VERSION} " in (REPOSITORY / "CHANGES.md").read_text(encoding="utf-8")
