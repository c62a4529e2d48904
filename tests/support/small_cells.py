"""Records of cells and of a matrix for tests, of which only what a test is about is given."""

from __future__ import annotations

from typing import Any

from scripts.study.records import FORMAT, CellRecord, MatrixRecord


def cell_record(**given: Any) -> CellRecord:
    """Return a cell of ten steps with the fields that are given."""
    usual: dict[str, Any] = {
        "name": "a", "label": "a", "kind": "a", "axes": {}, "seed": 1, "tuning": False,
        "flags": (), "batch": (1, 1), "steps": 10, "max_time": 0, "eval_interval": 0,
        "checkpoint_bytes": 1,
    }  # fmt: skip
    return CellRecord(**{**usual, **given})


def matrix_record(*cells: CellRecord, **given: Any) -> MatrixRecord:
    """Return a matrix of these cells, with the fields that are given."""
    usual: dict[str, Any] = {
        "format": FORMAT, "name": "a", "axes": {}, "seeds": (1,), "threads": None, "base": {},
        "tuning": None, "left_out": (), "shared": (), "jobs": 1, "gpus": (), "timeout": None,
        "wait": 0, "keep": "last", "cells": cells,
    }  # fmt: skip
    return MatrixRecord(**{**usual, **given})
