"""Hosts that differ in their data, program or options: one line each."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from gpt2.config.bind import bind
from gpt2.config.errors import Exit, UserError
from gpt2.config.options import Options
from gpt2.machine.ranks import DistributedContext
from gpt2.run_dir import resume
from gpt2.session import likeness


@dataclasses.dataclass(frozen=True)
class Told(DistributedContext):
    """The first of two ranks; `other` is what the second one tells."""

    other: Any = None

    def gather(self, value: Any, aside: bool = False) -> list[Any]:
        return [value, self.other(value)]


def ranks(other: Any) -> Told:
    return Told(0, 2, other=other)


def problems(other: Any) -> UserError:
    config = bind(Options())
    with pytest.raises(UserError) as error:
        likeness.refuse_unlike(ranks(other), config, "a" * 64)
    return error.value


def test_ranks_that_are_alike_pass() -> None:
    config = bind(Options())
    likeness.refuse_unlike(ranks(lambda value: ("node1", value[1])), config, "a" * 64)
    likeness.refuse_unlike(DistributedContext(), config, "a" * 64)
    likeness.refuse_no_data(ranks(lambda _: ("node1", None)), None)


def test_other_data_are_named_with_host_and_hash() -> None:
    error = problems(lambda value: ("node1", {**value[1], "data": "b" * 64}))
    (line,) = error.messages
    assert error.code == Exit.DATA
    mine = socket.gethostname()
    assert line.startswith(f"host node1 has data of hash {12 * 'b'}, and host {mine} data of hash")
    assert "prepare the data once" in line


@pytest.mark.parametrize("what", ["gpt2/", "torch", "Python", "options"])
def test_another_program_is_named(what: str) -> None:
    error = problems(lambda value: ("node1", {**value[1], what: "0.1"}))
    (line,) = error.messages
    assert error.code == Exit.CONFIG
    assert f"host node1 has {what}" in line
    assert "on every node" in line or "every node with" in line


def test_options_that_may_differ_by_host_are_not_compared(tmp_path: Path) -> None:
    """A path, and the number of a GPU."""
    options, other = Options(), Options()
    other.give("DATA_DIR", str(tmp_path), "--data-dir")
    assert likeness._digest(bind(options)) == likeness._digest(bind(other))
    other.give("BATCH_SIZE", "3", "--batch-size")
    assert likeness._digest(bind(options)) != likeness._digest(bind(other))


def test_data_that_one_host_has_not_end_all_ranks() -> None:
    missing = ("node1", ("there is no corpus",))
    with pytest.raises(UserError) as error:
        likeness.refuse_no_data(ranks(lambda _: missing), None)
    assert error.value.code == Exit.DATA
    assert error.value.messages == ("on host node1: there is no corpus",)


def test_a_run_directory_that_a_host_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_SEEN_WITHIN", 0.0)
    (tmp_path / "mark").touch()
    resume._refuse_unshared(tmp_path, "mark", ranks(lambda _: None))
    with pytest.raises(UserError, match="host node1 does not see this folder"):
        resume._refuse_unshared(tmp_path, "mark", ranks(lambda _: "node1"))
    with pytest.raises(UserError, match=f"host {socket.gethostname()} does not see"):
        resume._refuse_unshared(tmp_path, "other", ranks(lambda _: None))
