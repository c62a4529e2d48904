"""What downloads leave in place of weights and data is recognised; weights and text are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.files.wrong_downloads import what_it_is

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 54\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "a pointer of git-lfs"),
        (b"\n<!DOCTYPE html>\n<html>" + b" " * 4000, "is a web page of 4,023 bytes"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
        (b"Entry not found", "'entry not found'"),
        (b"Invalid username or password.", "a server's answer"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", ""),
        (b"To be, or not to be", ""),
        (b"", ""),
    ],
)
def test_what_a_file_is(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    found = what_it_is(path)
    assert (said in found) if said else found == ""
    assert what_it_is(tmp_path / "none") == ""
