"""One run over several nodes: torchrun on this node, which meets the others at host:port.

Run `make NNODES=2 NODE_RANK=0 NPROC=8 RDZV=host:port` on each node, with its own NODE_RANK: 0 on
the node that `host` names. This script knows which node listens and which address reaches the
others. torchrun by itself compares host names, waits in silence, and ends with a stack.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    if not __package__:  # the repository on the path, not this folder
        _here = Path(__file__).resolve().parent
        sys.path = [str(_here.parent), *(p for p in sys.path if Path(p).resolve() != _here)]
    from gpt2.config.interpreter import need_packages

    need_packages("nodes.py")

from gpt2.config.entry import run_entry
from gpt2.config.errors import Exit, UserError

#: Seconds after which a waiting node prints so, and after which it ends.
SPEAK, GIVE_UP = 25.0, 600.0
#: Seconds of one attempt to connect: signals are answered between two.
_ATTEMPT = 3.0
#: The name of this rendezvous in torchrun, and of its keys.
_BACKEND = "gpt2-nodes"
#: ioctl for the IPv4 address of a network interface on Linux (SIOCGIFADDR).
_ADDRESS_OF = 0x8915


class Meeting:
    """Waits until all nodes are connected; node 0 keeps the store for their messages."""

    def __init__(self, host: str, port: int, rank: int, nodes: int) -> None:
        self.host, self.port, self.rank, self.nodes = host, port, rank, nodes
        self.where = f"RDZV={host}:{port}"
        self.mine = f"NNODES={nodes} NODE_RANK={rank}"
        self._begin, self._said = time.monotonic(), False

    def store(self) -> Any:
        """Return the store, once all nodes are connected.

        Raises UserError.
        """
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        tcp = self._connected()
        store = PrefixStore(_BACKEND, tcp)
        if store.add(f"taken/{self.rank}", 1) > 1:
            raise UserError(
                f"NODE_RANK={self.rank} is taken by another node at {self.where}: every node needs "
                f"one of its own, from 0 to {self.nodes - 1}"
            )
        store.set(f"nodes/{self.rank}", str(self.nodes))
        for other in range(self.nodes):
            while not store.check([f"nodes/{other}"]):
                self._wait(
                    f"NODE_RANK={other} is missing: start it with NNODES={self.nodes} "
                    f"NODE_RANK={other} and the same RDZV"
                )
                time.sleep(0.1)
            if (told := int(store.get(f"nodes/{other}"))) != self.nodes:
                raise UserError(
                    f"NNODES={self.nodes} here and NNODES={told} on NODE_RANK={other}: give all "
                    f"nodes of {self.where} the same"
                )
        return tcp

    def _connected(self) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        if self.rank == 0:
            self._refuse_to_listen()
        while self.rank and not self._answers():  # torch prints a stack for every attempt
            self._wait(
                f"nobody answers at host {self.host}, port {self.port}: start the node of that "
                "address with NODE_RANK=0 and the same RDZV, and let the port through its firewall"
            )
            time.sleep(0.1)
        return TCPStore(
            self.host, self.port, self.nodes, self.rank == 0, timedelta(seconds=GIVE_UP),
            wait_for_workers=False, multi_tenant=True,
        )  # fmt: skip

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=_ATTEMPT).close()
            return True
        return False

    def _refuse_to_listen(self) -> None:
        """Raise UserError where the others cannot reach this node at the given address."""
        own, wanted = own_address(self.host, self.port), socket.gethostbyname(self.host)
        if own != wanted:  # also if this host's name is 127.0.1.1 in its own /etc/hosts
            raise UserError(
                f"{self.where}: NODE_RANK=0 runs on this node, {own}, and host {self.host} is "
                f"{wanted}: give all nodes the address by which they reach NODE_RANK=0"
            )
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", self.port))
            except OSError as error:
                raise UserError(
                    f"{self.where}: port {self.port} is in use on this node: give all nodes "
                    "another one"
                ) from error

    def _wait(self, way: str) -> None:
        """Print after SPEAK seconds what is missing.

        Raises UserError after GIVE_UP.
        """
        waited = time.monotonic() - self._begin
        if waited > GIVE_UP:
            raise UserError(f"{self.where}: {way} ({self.mine}; waited {GIVE_UP:.0f} s)")
        if waited > SPEAK and not self._said:
            self._said = True
            line = f"{self.where}: {way} ({self.mine}; it waits until {GIVE_UP:.0f} s are over)"
            print(f"warning: {line}", file=sys.stderr, flush=True)


def own_address(host: str, port: int) -> str:
    """Return this node's address on the way to `host`. Sends nothing.

    Raises UserError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect((host, port))
        except OSError as error:
            raise UserError(
                f"RDZV={host}:{port}: host {host} is not to be found from this node "
                f"({error.strerror or error}): give the address of the node of NODE_RANK=0"
            ) from error
        found: str = trial.getsockname()[0]
        return found


def interface_of(address: str) -> str | None:
    """Return the network interface with an IPv4 address; None where unknown."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(asked.fileno(), _ADDRESS_OF, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def launch(asked: argparse.Namespace, host: str, port: int) -> NoReturn:
    """Run torchrun on this node, in this process.

    Raises UserError where the nodes cannot connect.
    """
    from torch.distributed import run
    from torch.distributed.elastic.rendezvous import (
        RendezvousInfo,
        RendezvousParameters,
        rendezvous_handler_registry,
    )
    from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

    class Nodes(StaticTCPRendezvous):
        """A rendezvous of nodes with given ranks, which reports what it waits for."""

        def get_backend(self) -> str:
            return _BACKEND

        def next_rendezvous(self) -> RendezvousInfo:
            """Return what the nodes share, once they are connected."""
            if self._store is None:
                self._store = Meeting(host, port, asked.node_rank, asked.nnodes).store()
            return super().next_rendezvous()

    def create(parameters: RendezvousParameters) -> Nodes:
        rank, nodes = asked.node_rank, asked.nnodes
        return Nodes(host, port, rank, nodes, parameters.run_id, timeout=int(GIVE_UP))

    rendezvous_handler_registry.register(_BACKEND, create)
    own = own_address(host, port)
    if (interface := interface_of(own)) is not None:
        # gloo would use the address of this host's name, which often does not reach the others.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    signals = ["--signals-to-handle", asked.signals_to_handle] if asked.signals_to_handle else []
    run.main(
        [
            "--nnodes", str(asked.nnodes), "--nproc-per-node", str(asked.nproc),
            "--rdzv-backend", _BACKEND, "--rdzv-endpoint", f"{host}:{port}", "--rdzv-id", "gpt2",
            "--local-addr", own, *signals, *asked.command,
        ]
    )  # fmt: skip
    sys.exit(Exit.OK)


def main(argv: Sequence[str]) -> int:
    """Run the command that follows the flags on this node's ranks.

    Raises UserError.
    """
    parser = argparse.ArgumentParser("nodes.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--nnodes", type=int, required=True, help="how many nodes")
    parser.add_argument("--node-rank", type=int, required=True, help="which of them this is")
    parser.add_argument("--nproc", type=int, default=1, help="ranks on this node")
    parser.add_argument("--rdzv", required=True, metavar="HOST:PORT", help="where they meet")
    parser.add_argument("--signals-to-handle", default="", help="as torchrun has it")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the script and its flags")
    asked = parser.parse_args(argv)
    host, _, port = asked.rdzv.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"RDZV={asked.rdzv} is no host:port such as node0:29500")
    launch(asked, host, int(port))


if __name__ == "__main__":
    run_entry("nodes.py", lambda: main(sys.argv[1:]))
