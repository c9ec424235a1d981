"""A throw-away SLURM cluster on this machine, for tests: munged, slurmctld and slurmd, all in one folder.

    python -m tests.slurm.cluster FOLDER start [--install] [--nodes 2] [--gpus 4] [--max-array 8] [--sacct] ...
    . FOLDER/env.sh                       # SLURM_CONF, and PATH for the stand-in for sacct
    python -m tests.slurm.cluster FOLDER kill-node NODE | restart-node NODE | restart-controller | stop

Debian and Ubuntu; root is needed only to install (`--install`: munge, slurmctld, slurmd, slurm-client). Every node is
this machine: their CPUs, memory and GPUs are claims, which SLURM schedules and nobody has to own. Jobs of the partition
`urgent` preempt those of `batch`, which are signalled, requeued and run on. There is no accounting, as on many sites;
`--sacct` puts a `sacct` on PATH that answers from squeue.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
WAIT = 60.0
SAVED = 6.0
"""Seconds after which what changed is in the controller's files: it writes them every five."""

CONF = """\
ClusterName=throwaway
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# cred_expire, of which 5 is the least, is also the time between a requeue and the next start
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
{memory_kill}
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MaxArraySize={max_array}
MinJobAge={min_job_age}
JobRequeue=1
KillWait=4
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

MEMORY_KILL = {
    False: "JobAcctGatherType=jobacct_gather/none",
    True: "JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\nJobAcctGatherParams=OverMemoryKill",
}

SACCT = """\
#!/bin/sh
# A stand-in: every job that squeue knows, in the form of `sacct -o JobID,State,NodeList --parsable2`.
echo 'JobID|State|NodeList'
exec squeue --all --noheader --states=all --array --format='%i|%T|%N'
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the cluster claims to be."""

    nodes: int = 1
    cpus: int = 4
    memory: int = 4000  # MB, of each node
    gpus: int = 2
    max_array: int = 1001
    grace: int = 30  # seconds from the preemption signal to the end
    min_job_age: int = 300  # seconds for which an ended job is known
    sacct: bool = False
    memory_kill: bool = False  # a job that takes more memory than it asked for is killed within seconds


def missing() -> str | None:
    """Why no cluster can be started here; None when one can."""
    lacking = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    return f"SLURM is not installed: no {', '.join(lacking)}" if lacking else None


def install() -> None:
    """Install what is missing from the distribution's packages."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "--quiet"], env=environment, check=False)
    command = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, env=environment, check=True)


class Cluster:
    """The cluster whose files lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.conf = self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which SLURM's programs speak to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": f"{self.folder}/bin:{PATH}"}

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Output of a program of SLURM's."""
        done = subprocess.run(
            command, env=self.environment, check=False, capture_output=True, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    @property
    def nodes(self) -> list[str]:
        return [line.split("=")[1].split()[0] for line in self.conf.read_text().splitlines() if "NodeName=" in line]

    def start(self, settings: Settings) -> None:
        """Write the settings and start the daemons."""
        for name in ("munge", "run", "log", "state", "spool", "bin", "dev"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._configure(settings)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = self.folder / "munge"
        files = {"socket": munge / "socket", "key-file": key, "seed-file": munge / "seed"}
        files |= {"log-file": self.folder / "log" / "munged.log", "pid-file": self.folder / "run" / "munged.pid"}
        self._daemon("munged", "--force", *(f"--{name}={file}" for name, file in files.items()))
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self.wait_up()

    def _configure(self, settings: Settings) -> None:
        port, gres, nodes = _free_ports(settings.nodes + 1), [], []
        for i in range(settings.nodes):
            name = f"node{i + 1}"
            nodes.append(
                f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port + 1 + i} CPUs={settings.cpus} "
                f"RealMemory={settings.memory} Gres=gpu:{settings.gpus} State=UNKNOWN"
            )
            for k in range(settings.gpus):  # only for a device does SLURM set CUDA_VISIBLE_DEVICES
                device = self.folder / "dev" / f"gpu{k}"
                device.unlink(missing_ok=True)
                device.symlink_to("/dev/null")
                gres.append(f"NodeName={name} Name=gpu File={device}\n")
        fields = dataclasses.asdict(settings) | {
            "nodes": "\n".join(nodes),
            "memory_kill": MEMORY_KILL[settings.memory_kill],
        }
        self.conf.write_text(CONF.format(port=port, user=getpass.getuser(), folder=self.folder, **fields))
        (self.folder / "gres.conf").write_text("".join(gres))
        (self.folder / "env.sh").write_text(f"export SLURM_CONF={self.conf} PATH={self.folder}/bin:$PATH\n")
        sacct = self.folder / "bin" / "sacct"
        sacct.unlink(missing_ok=True)
        if settings.sacct:
            sacct.write_text(SACCT)
            sacct.chmod(0o755)

    def _daemon(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command[0]} did not start: {done.stderr.strip()}")

    def start_controller(self) -> None:
        self._daemon("slurmctld", "-f", str(self.conf))

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-N", node, "-f", str(self.conf))

    def wait_up(self) -> None:
        """Until every node takes jobs."""

        def up() -> bool:
            try:
                told = self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%N %T", timeout=20)
            except (RuntimeError, subprocess.TimeoutExpired):
                return False
            states = dict(line.split() for line in told.splitlines())
            for node, state in states.items():
                if state.startswith(("down", "drain")):
                    self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
            return len(states) == len(self.nodes) and set(states.values()) <= {
                "idle",
                "mixed",
                "allocated",
                "completing",
            }

        if not _until(up):
            raise RuntimeError(f"the cluster did not come up; see {self.folder}/log")

    def kill_node(self, node: str) -> None:
        """A node crashes: its slurmd and the processes of all its jobs are killed."""
        victims = [self._pid(node), *self._steps(node)]
        children = _children()
        for pid in victims:
            victims += children.get(pid, [])
        for pid in victims:
            _kill(pid)

    def kill_slurmd(self, node: str) -> None:
        """Only the daemon dies; its jobs live on."""
        _kill(self._pid(node))

    def kill_controller(self) -> None:
        """The controller crashes; its files know what runs, else it starts a job twice and drains the node for it."""
        time.sleep(SAVED)
        _kill(self._pid("slurmctld"))

    def _steps(self, node: str) -> list[int]:
        """The slurmstepd processes of a node: those that write its log."""
        log, found = str(self.folder / "log" / f"{node}.log"), []
        for process in _processes():
            if not _command_line(process).startswith("slurmstepd"):
                continue
            try:
                files = [file.readlink() for file in (process / "fd").iterdir()]
            except OSError:
                continue
            if log in map(str, files):
                found.append(int(process.name))
        return found

    def _pid(self, daemon: str) -> int:
        """The process of one of our daemons; 0 when it does not run."""
        try:
            pid = int((self.folder / "run" / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if str(self.folder) in _command_line(Path(f"/proc/{pid}")) else 0

    def stop(self) -> None:
        """Cancel all jobs and end all daemons."""
        if self._pid("slurmctld"):
            self.run("scancel", "--user", getpass.getuser(), check=False)
            _until(lambda: not self.run("squeue", "--noheader", check=False).strip(), 15)
        for node in self.nodes:
            for pid in self._steps(node):
                _kill(pid)
        for daemon in (*self.nodes, "slurmctld", "munged"):
            if pid := self._pid(daemon):
                os.kill(pid, signal.SIGTERM)
                if not _until(lambda daemon=daemon: not self._pid(daemon), 10):
                    _kill(pid)


def _free_ports(count: int) -> int:
    """The first of so many neighbouring ports that are free."""
    for first in range(20000 + os.getpid() % 20000, 60000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for i, one in enumerate(sockets):
                one.bind(("", first + i))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports")


def _until(true: Callable[[], bool], seconds: float = WAIT) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for process in _processes():
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        found.setdefault(parent, []).append(int(process.name))
    return found


def _kill(pid: int) -> None:
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    actions = ("start", "stop", "kill-node", "restart-node", "kill-slurmd", "restart-controller")
    parser.add_argument("action", choices=actions)
    parser.add_argument("node", nargs="?", default="node1")
    parser.add_argument("--install", action="store_true")
    for field in dataclasses.fields(Settings):
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=int, default=field.default)
    given = parser.parse_args()
    cluster = Cluster(given.folder)
    if given.action == "start":
        if missing() and given.install:
            install()
        if reason := missing():
            sys.exit(reason)
        settings = Settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Settings)})
        cluster.start(settings)
        print(json.dumps(dataclasses.asdict(settings)), f"use it: . {cluster.folder}/env.sh", sep="\n")
    elif given.action == "stop":
        cluster.stop()
    elif given.action == "kill-node":
        cluster.kill_node(given.node)
    elif given.action == "kill-slurmd":
        cluster.kill_slurmd(given.node)
    elif given.action == "restart-node":
        cluster.start_node(given.node)
    else:
        cluster.kill_controller()
        cluster.start_controller()


if __name__ == "__main__":
    main()
