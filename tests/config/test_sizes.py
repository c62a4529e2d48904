"""Sizes of memory as texts."""

from __future__ import annotations

import pytest

from gpt2.config.bind import bind
from gpt2.config.errors import UserError
from gpt2.config.options import Options
from gpt2.config.sizes import in_seconds, parse_size, show_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("6G", 6 * 10**9), ("6GB", 6 * 10**9), ("6GiB", 6 * 2**30), ("500M", 5 * 10**8),
     ("1.5GiB", 3 * 2**29), ("0.1G", 10**8), ("3K", 3000), ("2T", 2 * 10**12)],
)  # fmt: skip
def test_right_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6",
        "6 G",
        "6g",
        "-6G",
        "+6G",
        "6Gi",
        "6Gb",
        "G",
        "1e3M",
        ".5G",
        "5.G",
        "6G ",
        "six",
        "\u0666G",
    ],
)
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 6G, 500M or 6GiB"):
        parse_size(text)


def test_for_people() -> None:
    assert [show_size(n) for n in (0, 734e6, 999e6, 10**9, 6.25e9)] == [
        "0 MB", "734 MB", "999 MB", "1.00 GB", "6.25 GB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("6", "'6' is not a size"),
        ("299M", "299 MB is less than any run needs: give at least 300 MB"),
    ],
)
def test_the_limit_is_checked(text: str, problem: str) -> None:
    options = Options()
    options.give("HOST_MEMORY_LIMIT", text, "--host-memory-limit")
    with pytest.raises(UserError, match=f"^--host-memory-limit.*{problem}"):
        bind(options)


def test_the_limit_is_bound() -> None:
    options = Options()
    assert bind(options).machine.host_memory_limit is None
    options.give("HOST_MEMORY_LIMIT", "6GiB", "--host-memory-limit")
    assert bind(options).machine.host_memory_limit == 6 * 2**30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", "90"), ("90s", "90"), ("5m", "300"), ("1h", "3600"), ("1h30m", "5400"),
     ("2d", "172800"), ("m5", "m5"), ("5x", "5x"), ("", ""), ("1.5h", "1.5h"), ("-5m", "-5m")],
)  # fmt: skip
def test_times(text: str, seconds: str) -> None:
    assert in_seconds(text) == seconds
