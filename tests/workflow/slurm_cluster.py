"""A Slurm cluster of one node on this machine, with ports, keys and folders of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

#: In /usr/sbin, which is not on everybody's search path.
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
SEARCH_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
CONFIG = """\
ClusterName=scanmill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
# Memory, too: without it nobody is held to what was asked for.
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
# Looks at memory every second, and ends who takes more than was asked for: without cgroups.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
# A node that does not answer is found out in seconds.
SlurmdTimeout=20
MinJobAge=600
# Jobs may ask for more than this machine has.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES
PartitionName=gpu Nodes={host}
"""


def why_not():
    """Why no cluster can be started here, or None."""
    if os.getuid() != 0:
        return "only root can start a Slurm cluster"
    missing = [
        name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=SEARCH_PATH) is None
    ]
    return f"not installed: {', '.join(missing)} (make test-packages)" if missing else None


def _free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _job_processes(folder):
    """The processes of the cluster's jobs, and those that Slurm has beside them."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes()
            of_job = b"\0SLURM_JOB_ID=" in variables
            beside_job = (path / "comm").read_text().startswith("slurmstepd")
            if os.fsencode(folder) in variables and (of_job or beside_job):
                found.append(int(path.name))
    return found


class Cluster:
    """Daemons as children of this process, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, **ports))
        # Jobs of Snakemake call srun without the variables of Slurm, and would look in /etc.
        srun = folder / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
        )
        srun.chmod(0o755)
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{srun.parent}{os.pathsep}{SEARCH_PATH}",
        }
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._key = key

    def start(self):
        """Start the daemons, and wait until the node takes jobs; TimeoutError if it does not."""
        folder = self.folder
        # It trusts no folder that others may write to, such as those of /tmp.
        own = [f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")]
        socket_file = f"--socket={folder}/munge.socket"
        self._start(
            "munged", "--foreground", "--force", f"--key-file={self._key}", socket_file, *own
        )
        self._start("slurmctld", "-D", "-c")
        self.start_node()

    def _start(self, name, *arguments):
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [shutil.which(name, path=SEARCH_PATH), *arguments],
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    def start_node(self):
        """Start the node's daemon, and wait until it takes jobs."""
        self._start("slurmd", "-D")
        self._wait(lambda: self.ask("sinfo", "--noheader", "--format=%T") in ("idle", "mixed"))

    def _wait(self, is_so, seconds=60):
        end = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > end:
                logs = [
                    path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out")
                ]
                raise TimeoutError("\n".join(["the cluster does not answer", *logs]))
            time.sleep(0.2)

    def ask(self, *command):
        """What one of Slurm's commands says."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    def kill_node(self):
        """End the node's daemon and everything it started, at once, as when its power goes."""
        daemon = self.daemons.pop("slurmd")
        processes = [daemon.pid, *_job_processes(self.folder)]
        for number in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        daemon.wait()

    def stop(self):
        """End jobs and daemons."""
        if "slurmd" in self.daemons:
            self.kill_node()
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
