"""A throw-away SLURM cluster on one machine: real daemons and a real queue; the nodes and their GPUs are made up.

It runs as whoever starts it, needs no root and no database, and leaves nothing behind but its folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

from pipeline import ROOT

PACKAGES = "slurmctld slurmd slurm-client munge"
"""What apt-get must have installed (Debian, Ubuntu)."""

_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_DAEMONS = ("munged", "slurmctld", "slurmd")
_CLIENTS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "sshare", "sstat")


def missing_packages() -> str | None:
    """Say what is missing for a cluster, or return None."""
    missing = [name for name in (*_DAEMONS, "sbatch") if shutil.which(name, path=_PATH) is None]
    return f"no {', '.join(missing)}: apt-get install {PACKAGES}" if missing else None


class Cluster:
    """A context manager; inside it the cluster runs and all its nodes are idle.

    Partition `cpu` (the default) holds all nodes, `gpu` all but the first. A job that uses more memory than it asked
    for is killed within two seconds; a node that does not answer is down after about twice `node_timeout` seconds.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 3,
        cpus: int = 2,
        memory_mb: int = 8000,
        gpus: int = 2,
        kill_wait: int = 30,
        node_timeout: int = 5,
        settings: str = "",
    ) -> None:
        """Choose the cluster's form; nothing is started yet.

        Args:
            folder: for its configuration, state and logs; made if missing. Its path must be short (below 80
                characters), since a socket lies in it.
            nodes: they are named n1, n2, ...
            cpus, memory_mb, gpus: of each node, as SLURM shall believe.
            kill_wait: seconds between SIGTERM and SIGKILL for a job that is cancelled or out of time.
            settings: further lines for slurm.conf.
        """
        self.folder = folder.resolve()
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self._cpus, self._memory_mb, self._gpus = cpus, memory_mb, gpus
        self._kill_wait, self._node_timeout, self._settings = kill_wait, node_timeout, settings
        self._conf = self.folder / "etc/slurm.conf"
        self.names_gpus = False  # whether jobs are told which GPUs are theirs, in CUDA_VISIBLE_DEVICES
        self._port = 0
        self._held = ExitStack()

    def __enter__(self) -> Cluster:
        for name in ("etc", "state", "spool", "log", "run", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "run").chmod(0o711)
        self._port = self._hold_ports()
        self._configure()
        try:
            self._start_munge()
            self._start("slurmctld", "-c")
            for node in self.nodes:
                self._start("slurmd", "-N", node)
            self.wait_until(lambda: self.node_states() == dict.fromkeys(self.nodes, "idle"), "all nodes are idle")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment for whoever uses the cluster.

        The clients that stand first on PATH find slurm.conf by themselves: Snakemake takes SLURM_CONF away from jobs.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return kept | {"PATH": f"{self.folder}/bin:{_PATH}", "OMP_NUM_THREADS": "1"}

    # -------------------------------------------------------------------------------------------------- what goes on

    def call(self, *command: str) -> str:
        """Run a SLURM command and return what it prints."""
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
        return result.stdout

    def node_states(self) -> dict[str, str]:
        """Return the state of each node; empty while the controller does not answer."""
        try:
            lines = self.call("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%N %t").splitlines()
        except RuntimeError:
            return {}
        return dict(line.split() for line in lines)

    def jobs(self) -> list[dict[str, str]]:
        """Return what SLURM knows of each job, ended ones included: JobId, JobState, NodeList, TimeLimit, TRES ..."""
        lines = self.call("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def running(self) -> list[dict[str, str]]:
        """Return the jobs that run now, see `jobs`."""
        return [job for job in self.jobs() if job["JobState"] == "RUNNING"]

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Return as soon as the condition holds.

        Raises:
            TimeoutError: it did not come true; the message holds `what` and the cluster's state.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}; nodes: {self.node_states()}")
            time.sleep(0.2)

    # ---------------------------------------------------------------------------------------------- what goes wrong

    def kill_node(self, node: str) -> None:
        """Let a node lose its power: its daemon and all that runs on it end at once; SLURM finds out by itself."""
        steps = {job["JobId"] for job in self.running() if job["NodeList"] == node}
        _kill(self._pid(f"slurmd.{node}"), signal.SIGKILL)
        parents = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        dying = [pid for pid in parents if self._step_of(pid) in steps]
        for pid in dying:  # parents first, or they would tell the controller of their children's end
            dying += [child for child, parent in parents.items() if parent == pid]
        for pid in dying:
            _kill(pid, signal.SIGKILL)

    def _step_of(self, pid: int) -> str | None:
        """Return the id of the job that a process keeps for a node of this cluster, if it does."""
        with contextlib.suppress(OSError):
            title = re.match(r"slurmstepd: \[(\d+)\.", Path(f"/proc/{pid}/cmdline").read_text())
            if title and f"SLURM_CONF={self._conf}\0" in Path(f"/proc/{pid}/environ").read_text():
                return title[1]
        return None

    def resume_node(self, node: str) -> None:
        """Bring a node back."""
        self._start("slurmd", "-N", node)
        self.wait_until(lambda: self.node_states().get(node) in ("idle", "mix", "alloc"), f"{node} is back")

    def restart_controller(self) -> None:
        """Stop the controller and start it again, as for an update: jobs run on meanwhile."""
        _kill(self._pid("slurmctld"), signal.SIGTERM)
        self._start("slurmctld")
        self.wait_until(self.node_states, "the controller answers")

    def stop(self) -> None:
        """Cancel all jobs, stop all daemons, and wait until they are gone."""
        if self.node_states():
            self.call("scancel", "--user", getpass.getuser())
            self.wait_until(lambda: not self.running(), "all jobs are cancelled", self._kill_wait + 30)
        for name in (*(f"slurmd.{node}" for node in self.nodes), "slurmctld", "munged"):
            _kill(self._pid(name), signal.SIGTERM)
        self._held.close()

    # ------------------------------------------------------------------------------------------------------ start

    def _hold_ports(self) -> int:
        """Return the first of the ports for all daemons; they are ours, also among clusters that start together."""
        count = len(self.nodes) + 1
        for port in random.sample(range(20000, 32000, 32), 300):
            with ExitStack() as held:
                lock = held.enter_context(open(f"{tempfile.gettempdir()}/.slurm-{getpass.getuser()}-{port}", "w"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held.callback(Path(lock.name).unlink, missing_ok=True)
                    for i in range(count):
                        with socket.socket() as probe:
                            probe.bind(("127.0.0.1", port + i))
                except OSError:
                    continue
                self._held = held.pop_all()
                return port
        raise RuntimeError("no free ports")

    def _configure(self) -> None:
        folder, port, user, host = self.folder, self._port, getpass.getuser(), socket.gethostname().split(".")[0]
        last, gpu_nodes = len(self.nodes), self.nodes[1:] or self.nodes
        # cred_expire is also how long a job that lost its node waits before it starts again (else 120 s).
        self._conf.write_text(
            f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PriorityType=priority/basic
DefMemPerCPU=500
MinJobAge=3600
MessageTimeout=4
KillWait={self._kill_wait}
InactiveLimit=0
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={self._node_timeout}
GresTypes=gpu
NodeName=n[1-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{port + 1}-{port + last}] CPUs={self._cpus} \
RealMemory={self._memory_mb} Gres=gpu:{self._gpus} State=UNKNOWN
PartitionName=cpu Nodes=n[1-{last}] Default=YES MaxTime=1-00:00:00 State=UP
PartitionName=gpu Nodes={",".join(gpu_nodes)} MaxTime=1-00:00:00 State=UP
{self._settings}
"""
        )
        (folder / "etc/gres.conf").write_text(f"NodeName=n[1-{last}] Name=gpu File={self._gpu_devices()}\n")
        (folder / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in _CLIENTS:
            client = folder / "bin" / name
            client.write_text(f'#!/bin/sh\nSLURM_CONF={self._conf} exec {shutil.which(name, path=_PATH)} "$@"\n')
            client.chmod(0o755)

    def _gpu_devices(self) -> str:
        """Return a pattern of files that stand for GPUs.

        SLURM tells a job its GPUs only if these are numbered character devices: the consoles serve, where they exist.
        """
        consoles = [Path(f"/dev/tty{i}") for i in range(self._gpus)]
        self.names_gpus = all(console.is_char_device() for console in consoles)
        if self.names_gpus:
            return f"/dev/tty[0-{self._gpus - 1}]"
        for i in range(self._gpus):
            (self.folder / f"run/gpu{i}").touch()
        return f"{self.folder}/run/gpu[0-{self._gpus - 1}]"

    def _start_munge(self) -> None:
        key = self.folder / "etc/munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        run = f"{self.folder}/run"
        files = [f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed"]
        self._start("munged", "--force", f"--key-file={key}", f"--log-file={self.folder}/log/munged.log", *files)

    def _start(self, daemon: str, *arguments: str) -> None:
        program = shutil.which(daemon, path=_PATH)
        assert program is not None, missing_packages()
        environment = self.environment | {"SLURM_CONF": str(self._conf)}
        output = self.folder / "log/start.txt"
        with open(output, "a") as file:  # not a pipe: the daemon would keep it open
            subprocess.run(
                [program, *arguments], check=True, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def _pid(self, daemon: str) -> int | None:
        file = self.folder / f"run/{daemon}.pid"
        return int(file.read_text()) if file.exists() and file.read_text().strip() else None


def _kill(pid: int | None, sent: signal.Signals) -> None:
    """Send a signal and wait for the end; a process that nobody has reaped counts as ended."""
    if pid is None:
        return
    end = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sent)
    while _is_alive(pid):
        time.sleep(0.1)
        if time.monotonic() > end:
            raise TimeoutError(f"process {pid} does not end")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_snakemake(
    cluster: Cluster,
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    output: IO[str] | int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start Snakemake with the repository's own slurm profile, in a process group of its own.

    Args:
        folder: params.yaml, data/ and results/ are there.
        arguments: for Snakemake, besides those for a cluster without a database, and for quicker polling.
        environment: variables besides the cluster's.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--profile", str(ROOT / "workflow/profiles/slurm"), "--slurm-status-command", "squeue"]
    command += ["--slurm-init-seconds-before-status-checks", "2", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=cluster.environment | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_snakemake(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """Run Snakemake on the cluster to its end, see `start_snakemake`, and return what it printed.

    Raises:
        RuntimeError: it failed; the message is its output.
    """
    process = start_snakemake(cluster, folder, *arguments)
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(output)
    return output
