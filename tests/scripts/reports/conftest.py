"""A reported matrix for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.report import main
from tests.support.synthetic import write_matrix


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole matrix, reported."""
    out = write_matrix(tmp_path_factory.mktemp("reports") / "matrix")
    assert main(["--out", str(out)]) == 0
    return out
