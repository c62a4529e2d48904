"""A link is replaced in one step, and where there are no links that is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gpt2.files.link import point


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_a_link_leads_to_what_was_named_last(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert point(tmp_path / "link", name) == ""
        assert (tmp_path / "link").resolve() == tmp_path / name
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_is_no_link_is_left_alone(make: object, tmp_path: Path) -> None:
    make(tmp_path / "link")  # type: ignore[operator]
    assert "of that name" in point(tmp_path / "link", "one")
    assert not (tmp_path / "link").is_symlink()


def test_without_links_an_older_one_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("older")
    monkeypatch.setattr(os, "symlink", no_links)
    assert point(tmp_path / "link", "newer") == "Operation not supported"
    assert list(tmp_path.iterdir()) == []
