"""Processes that untrusted files are opened in: limited, expendable, and ended with their job.

A `Worker` is a server process that forks a child for each task; the child limits its own address space
and CPU time, works, and reports line by line. A child that dies or hangs costs what it was at; the next
child goes on behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

# The process --------------------------------------------------------------------------------------


def serve(
    work: Callable[[Mapping[str, Any], Callable[..., None]], None],
    prepare: Callable[[Mapping[str, Any]], None] = lambda task: None,
) -> None:
    """Read a task a line from standard input, do each in a forked child, relay what it reports.

    `work` takes the task, whose `limits` are those of `images.limits`, and a function that reports a
    message; it never raises for what is wrong with the task's files. `prepare` gets the task before the
    child is forked: what it imports, no child needs to import again.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback.
    for line in sys.stdin:
        task = json.loads(line)
        prepare(task)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _run_child(work, task, write_end)
        os.close(write_end)
        how = _relay(read_end, task["limits"]["wall_seconds"])
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):  # It may hang, or leave pdftoppm behind.
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"event": "end", "how": how, "code": code}), flush=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _relay(descriptor: int, patience: float) -> str:
    """Pass the child's lines on until it ends, or says nothing for `patience` seconds."""
    rest = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], patience)
        if not ready:
            return "timeout"
        block = os.read(descriptor, 1 << 16)
        if not block:
            return "closed"
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()


def _run_child(work: Callable, task: Mapping[str, Any], write_end: int) -> None:
    """Do one task under limits, report, and never return."""
    os.setsid()
    die_with_parent()
    devnull = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(devnull, standard)

    def say(**message: object) -> None:
        os.write(write_end, json.dumps(message).encode() + b"\n")

    code = 0
    try:
        memory = int(task["limits"]["memory_mb"]) << 20
        _limit(resource.RLIMIT_AS, memory, memory)
        _limit(resource.RLIMIT_CORE, 0, 0)
        limit_cpu(task["limits"]["cpu_seconds"])
        work(task, say)
    except BaseException:
        code = 1
    os._exit(code)


def _limit(kind: int, soft: float, hard: float) -> None:
    """Limit this process and its children, if there is not a lower limit already."""
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        soft = min(soft, present)
        hard = present if hard == resource.RLIM_INFINITY else min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def cpu_used(who: int = resource.RUSAGE_SELF) -> float:
    """Seconds of CPU time of this process, or of its children."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def limit_cpu(seconds: float) -> None:
    """Have the kernel end this process after `seconds` more of CPU time; children inherit the bound."""
    soft = int(cpu_used() + seconds) + 1
    _limit(resource.RLIMIT_CPU, soft, resource.RLIM_INFINITY)


def too_slow(limits: Mapping[str, float]) -> str:
    """What to say of a page that took more CPU time than it may."""
    return f"more than images.limits.cpu_seconds ({limits['cpu_seconds']:g} s)"


def too_much_memory(limits: Mapping[str, float]) -> str:
    """What to say of a page that took more memory than it may."""
    return f"more than images.limits.memory_mb ({limits['memory_mb']:g} MB)"


# The job's side -----------------------------------------------------------------------------------


class WorkersClosed(Exception):
    """The workers were ended while they had something to do."""


class Worker:
    """A worker process as the job sees it: it runs `python -m MODULE`, which calls `serve`."""

    def __init__(self, module: str) -> None:
        """Start the process."""
        self.module, self.closed = module, False
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        package = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def run(self, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages of a task, the last one of event `end`. Read all before the next task.

        A worker that is killed, as where memory runs out, ends the task as a killed child does, and
        another takes its place.
        """
        if self.process.poll() is not None:
            self._replace()
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            message = json.loads(line)
            yield message
            if message["event"] == "end":
                return
        yield {"event": "end", "how": "closed", "code": self._replace()}

    def _replace(self) -> int:
        """Start another process in place of one that was killed; returns how that one ended."""
        code = self.process.wait()
        if self.closed:
            raise WorkersClosed
        if code >= 0:  # Not killed, so it will not be better with another one.
            raise RuntimeError(f"a worker process ended with status {code}")
        self._end()
        self.process = self._start()
        return code

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def close(self) -> None:
        """End the process, and with it what it has at work."""
        self.closed = True
        self.process.kill()
        self.process.wait()


class WorkerPool:
    """Threads, each with a worker of its own once there is something to do."""

    def __init__(self, workers: int, module: str) -> None:
        """`workers`: how many tasks are done at a time."""
        self.size, self.module = workers, module
        self._executor = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._started: list[Worker] = []
        self._closed = False

    def submit(self, function: Callable, *arguments: object) -> Future:
        """Have `function(worker, *arguments)` called by the next thread that is free."""
        return self._executor.submit(self._call, function, arguments)

    def _call(self, function: Callable, arguments: tuple) -> object:
        worker = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = Worker(self.module)
            self._started.append(worker)
        try:
            if self._closed:
                raise WorkersClosed
            return function(worker, *arguments)
        except BaseException:
            worker.close()  # Its answers may be out of step with the questions now.
            self._own.worker = None
            raise

    def close(self) -> None:
        """End all workers; what they have at work raises WorkersClosed."""
        self._closed = True
        self._executor.shutdown(wait=False, cancel_futures=True)
        for worker in self._started:
            worker.close()
        self._executor.shutdown()
