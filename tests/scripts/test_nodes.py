"""A run over several nodes: how they meet, what is said where they do not, and real ones.

The real ones are network namespaces with a cable between them, which only root may make.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.checkpoint.store import load_last, steps
from gpt2.config.errors import UserError
from scripts import nodes
from tests.support import tiny, warm


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that speak after a moment, and give up soon after."""
    monkeypatch.setattr(nodes, "SPEAK", 0.2)
    monkeypatch.setattr(nodes, "GIVE_UP", 1.0)


def meet(*places: tuple[int, int]) -> list[Any]:
    """What nodes of these (NODE_RANK, NNODES) get that meet at one port; an error as itself."""
    port = free_port()

    def one(place: tuple[int, int]) -> Any:
        try:
            return nodes.Meeting("127.0.0.1", port, *place).store()
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


def test_nodes_meet() -> None:
    first, second = meet((0, 2), (1, 2))
    first.set("said", "hello")
    assert second.get("said") == b"hello"


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """One line soon, the error later: host, port, and both settings of this node."""
    (error,) = meet((1, 2))
    for said in (str(error), capsys.readouterr().err):
        assert len(said.splitlines()) == 1
        assert "nobody answers at host 127.0.0.1, port " in said
        assert "NNODES=2 NODE_RANK=1" in said
        assert "with NODE_RANK=0" in said
    assert nodes.SPEAK < nodes.GIVE_UP


def test_a_node_speaks_within_thirty_seconds() -> None:
    assert nodes.SPEAK + nodes._ATTEMPT <= 30


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_node_that_does_not_come_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    errors = meet((0, 3), (1, 3))
    assert all("NODE_RANK=2 is missing: start it with NNODES=3" in str(e) for e in errors)
    assert capsys.readouterr().err.count("warning: RDZV=127.0.0.1:") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_two_nodes_of_one_rank() -> None:
    errors = meet((0, 3), (1, 3), (1, 3))
    assert sum("NODE_RANK=1 is taken by another node" in str(error) for error in errors) == 1


@pytest.mark.usefixtures("impatient")
def test_nodes_that_count_differently() -> None:
    errors = meet((0, 2), (1, 3))
    assert "NNODES=2 here and NNODES=3 on NODE_RANK=1" in str(errors[0])
    assert "NNODES=3 here and NNODES=2 on NODE_RANK=0" in str(errors[1])


@pytest.mark.usefixtures("impatient")
def test_a_port_that_another_program_has() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"port {port} is in use on this node"):
            nodes.Meeting("127.0.0.1", port, 0, 2).store()


@pytest.mark.parametrize("value", ["node0", "node0:", ":1", "node0:0", "node0:70000", "a:b"])
def test_a_place_that_is_none(value: str) -> None:
    with pytest.raises(UserError, match="is no host:port such as node0:29500"):
        nodes.main(["--nnodes", "2", "--node-rank", "0", "--rdzv", value, "true"])


def test_a_node_0_elsewhere_than_the_host() -> None:
    with pytest.raises(UserError, match=r"host 192\.0\.2\.1 is"):
        nodes.Meeting("192.0.2.1", free_port(), 0, 2).store()


def test_a_host_that_is_not_to_be_found() -> None:
    with pytest.raises(UserError, match=r"host no\.such\.host\.invalid is not to be found"):
        nodes.own_address("no.such.host.invalid", 29500)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its interfaces")
def test_the_interface_of_an_address() -> None:
    assert nodes.own_address("127.0.0.1", 29500) == "127.0.0.1"
    assert nodes.interface_of("127.0.0.1") == "lo"
    assert nodes.interface_of("192.0.2.1") is None


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def cabled() -> Iterator[list[tuple[str, str]]]:
    """Two network namespaces, each with its address on the cable between them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root, and ip (iproute2)")
    stem = f"gpt2-{os.getpid()}"
    names = [f"{stem}-{n}" for n in range(2)]
    addresses = ["10.213.7.1", "10.213.7.2"]
    ends = [f"v{os.getpid()}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
        for name, address, end in zip(names, addresses, ends, strict=True):
            ip("link", "set", end, "netns", name)
            inside = ("netns", "exec", name, "ip")
            ip(*inside, "addr", "add", f"{address}/24", "dev", end)
            ip(*inside, "link", "set", end, "up")
            ip(*inside, "link", "set", "lo", "up")
        yield list(zip(names, addresses, strict=True))
    finally:
        for name in names:
            kill_node(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def kill_node(name: str) -> None:
    """End everything on a node at once, as a power cut does."""
    found = subprocess.run(
        ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
    )
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def start(place: tuple[str, str], rank: int, host: str, flags: list[str]) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", place[0], sys.executable, "scripts/nodes.py"]
    command += ["--nnodes", "2", "--node-rank", str(rank), "--rdzv", f"{host}:29500"]
    return subprocess.Popen(
        [*command, "gpt2/train.py", *flags],
        cwd=tiny.REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = load_last(run / "checkpoints", pytest.fail)
    assert found is not None
    return dict(found.model)


#: What a line of metrics says that must be equal.
KEYS = ("step", "loss", "val_loss")


@pytest.mark.long
@pytest.mark.parametrize("shard", ["none", "fsdp"])
def test_two_nodes_equal_one_and_a_killed_one_resumes(
    shard: str, cabled: list[tuple[str, str]], tmp_path: Path
) -> None:
    data, run = tiny.make_data(tmp_path / "data", characters=1000), tmp_path / "run"
    more = ("--max-steps", "60", "--optimizer", "sgd", "--checkpoint-interval", "2")
    more += ("--shard", shard)
    one = warm.run_ranks(
        2, ["gpt2/train.py", *tiny.flags(data, tmp_path / "one", *more)], dict(os.environ)
    )
    assert one.returncode == 0, one.stderr
    flags = tiny.flags(data, run, *more)
    host = cabled[0][1]
    both = [start(place, rank, host, flags) for rank, place in enumerate(cabled)]
    deadline = time.monotonic() + 120
    while not steps(run / "checkpoints"):
        assert both[0].poll() is None, both[0].communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint after 120 s"
        time.sleep(0.02)
    kill_node(cabled[1][0])
    for node in both:
        node.communicate(timeout=120)
    assert both[0].returncode != 0
    assert not (run / "summary.json").exists()
    both = [start(place, rank, host, flags) for rank, place in enumerate(cabled)]
    said = [node.communicate(timeout=240)[0] for node in both]
    assert [node.returncode for node in both] == [0, 0], said
    assert "resuming after step" in said[0]
    expected = weights(tmp_path / "one")
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)
    numbers, wanted = (
        [line[key] for line in tiny.metrics(path) for key in KEYS if key in line]
        for path in (run, tmp_path / "one")
    )
    assert len(numbers) > 100
    assert numbers == pytest.approx(wanted, rel=1e-6)
