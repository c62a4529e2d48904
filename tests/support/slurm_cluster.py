"""A Slurm of four nodes on this machine: the real daemons on loopback, in a folder that is removed.

As a program it runs until it is stopped, and prints what to put before a command:
python3 tests/support/slurm_cluster.py FOLDER
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NODES = 4
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
_PATIENCE = 60.0
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
# A job that is requeued waits until its credential has expired: two minutes, if nothing is said.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=10
MinJobAge=60
MaxArraySize=33
SchedulerParameters=batch_sched_delay=0,sched_interval=3,default_queue_depth=50
NodeName=node[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=1 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=24:00:00 State=UP
"""


def missing() -> str:
    """Return why no cluster can be started here; empty where one can."""
    lack = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
    if lack:
        return f"{lack[0]} is not installed (apt-get install slurm-wlm munge)"
    return "" if os.getuid() == 0 else "slurmd needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"


class Cluster:
    """Its daemons. `environment` is what the programs of Slurm need to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Write keys and configuration, start everything, and wait until all nodes are idle."""
        self.folder.mkdir(exist_ok=True)
        for name in ("state", *(f"spool-node{n}" for n in range(1, NODES + 1))):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        control, first = _free_ports(NODES + 1)
        conf = _CONF.format(
            host=socket.gethostname(),
            user=pwd.getpwuid(os.getuid()).pw_name,
            folder=self.folder,
            control=control,
            ports=f"[{first}-{first + NODES - 1}]",
            nodes=NODES,
        )
        (self.folder / "slurm.conf").write_text(conf)
        self._run(
            "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket",
            f"--key-file={key}", f"--pid-file={self.folder}/munged.pid", "--num-threads=2",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        _wait((self.folder / "munge.socket").exists, "munged")
        self._run("slurmctld", "-D", "-i")
        for n in range(1, NODES + 1):
            self.start_node(f"node{n}")
        _wait(
            lambda: self.say("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(NODES), "nodes"
        )

    def start_node(self, name: str) -> None:
        """Start a slurmd, also one that was killed."""
        self.nodes[name] = self._run("slurmd", "-D", "-N", name)

    def say(self, *command: str) -> str:
        """Return what a command of Slurm prints, its errors too."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        """Cancel all jobs and end the daemons, by their own numbers."""
        if self._started:
            self.say("scancel", "--signal=KILL", "--full", "--user=" + pwd.getpwuid(os.getuid())[0])
            self.say("scancel", "--user=" + pwd.getpwuid(os.getuid())[0])
            with suppress(AssertionError):
                _wait(lambda: not self.say("squeue", "-h").strip(), "jobs")
        for process in reversed(self._started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "said").open("ab") as said:
            process = subprocess.Popen(
                [shutil.which(command[0], path=_path()) or command[0], *command[1:]],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process


def _free_ports(count: int) -> tuple[int, int]:
    """Return a port, and the first of as many as there are nodes, that nobody listens on now."""
    for first in range(21000 + os.getpid() % 8000, 32000, count):
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first, first + 1
    raise OSError("no free ports")


def _wait(ready: object, what: str) -> None:
    assert callable(ready)
    end = time.monotonic() + _PATIENCE
    while not ready():
        assert time.monotonic() < end, f"{what}: not there after {_PATIENCE} s"
        time.sleep(0.2)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for a while."""
    found = Cluster(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()


if __name__ == "__main__":
    with cluster(Path(sys.argv[1]).resolve()):
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # else a SIGTERM would leave the daemons
        print(f"SLURM_CONF={sys.argv[1]}/slurm.conf; Ctrl-C ends it", flush=True)
        signal.sigwait(ends)
