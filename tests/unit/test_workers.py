"""Untrusted files cost a child process at most."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pdf2image
import pikepdf
import pytest
from PIL import Image
from rendered import (  # noqa: F401
    ENGINES,
    LIMITS,
    MARKS,
    SETTINGS,
    add_page,
    content_of,
    needs_poppler,
    outcomes,
    run,
    task,
    worker,
    write_bomb,
    write_pages,
    write_pdf,
    write_tiles,
)

import scanmill
from scanmill.errors import UserError
from scanmill.pdf_documents import PdfDocument, choose_engines
from scanmill.workers import Worker, WorkerPool, WorkersClosed

#: The pages of a long document, as one task.
ALL = list(range(1, 31))

# Limits, deaths -----------------------------------------------------------------------------------


def children(pid):
    """The processes that a process has started."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "reason", "says"),
    [
        (signal.SIGKILL, "memory", "SIGKILL"),
        (signal.SIGSEGV, "corrupt", "SIGSEGV"),
        (signal.SIGSTOP, "timeout", "images.limits.wall_seconds"),
    ],
)
def test_child_that_dies_or_hangs_costs_the_page_it_was_at(worker, tmp_path, number, reason, says):
    path = write_pages(tmp_path / "long.pdf", 30)
    sent = []

    def on_page():
        if not sent:
            (child,) = children(worker.process.pid)
            os.kill(child, number)
            sent.append(child)

    limits = {"wall_seconds": 3} if number == signal.SIGSTOP else {}
    rows = run(worker, path, tmp_path / "images", pages=ALL, on_page=on_page, **limits)
    assert [row["page"] for row in rows] == ALL
    bad = [row for row in rows if row["status"] != "ok"]
    assert [row["reason"] for row in bad] == [reason]
    assert says in bad[0]["message"]
    assert not lives(sent[0])
    assert not children(worker.process.pid)
    assert all((tmp_path / "images" / row["image"]).exists() for row in rows if row not in bad)


def test_worker_that_is_killed_costs_the_page_it_was_at(worker, tmp_path):
    """Where memory runs out, the kernel may take the parent of the process that needed it."""
    path = write_pages(tmp_path / "long.pdf", 30)
    killed = []

    def on_page():
        if not killed:
            killed.extend((worker.process.pid, *children(worker.process.pid)))
            os.kill(worker.process.pid, signal.SIGKILL)

    rows = run(worker, path, tmp_path / "images", pages=ALL, on_page=on_page)
    assert [row["page"] for row in rows] == ALL
    bad = [row for row in rows if row["status"] != "ok"]
    assert [(row["reason"], "SIGKILL" in row["message"]) for row in bad] == [("memory", True)]
    assert not any(lives(process) for process in killed)

    os.kill(worker.process.pid, signal.SIGKILL)  # At rest, it costs nothing.
    worker.process.wait()
    assert all(row["status"] == "ok" for row in run(worker, path, tmp_path / "images"))


def test_worker_that_cannot_start_fails_the_job_and_no_document(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    broken = Worker("scanmill.rendering")
    with pytest.raises((RuntimeError, BrokenPipeError)):
        run(broken, write_pages(tmp_path / "a.pdf", 1), tmp_path / "images")
    broken.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_page_that_needs_too_much_time_costs_itself(worker, tmp_path, engine):
    path = write_bomb(tmp_path / "bomb.pdf", levels=9)
    rows = run(worker, path, tmp_path / "images", engine=engine, cpu_seconds=0.5)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "timeout"), (3, "ok", None)]
    assert "images.limits.cpu_seconds (0.5 s)" in rows[1]["message"]


@needs_poppler
def test_page_that_needs_too_much_of_popplers_time_costs_itself(worker, tmp_path):
    write_tiles(tmp_path / "tiles.pdf", after=1)
    path, folder = tmp_path / "tiles.pdf", tmp_path / "images"
    rows = run(worker, path, folder, engine="poppler", cpu_seconds=0.5)
    assert outcomes(rows) == [(1, "failed", "timeout"), (2, "ok", None)]
    assert "images.limits.cpu_seconds (0.5 s)" in rows[0]["message"]


def test_time_limit_is_per_page_not_per_document(worker, tmp_path, monkeypatch):
    tasks, plain = [], Worker.run
    monkeypatch.setattr(Worker, "run", lambda self, task: tasks.append(task) or plain(self, task))
    with pikepdf.open(write_bomb(tmp_path / "slow.pdf", levels=4, before=0, after=0)) as pdf:
        for _ in range(59):
            pdf.pages.append(pdf.pages[0])
        pdf.save(tmp_path / "all.pdf")
    pages = list(range(1, 61))
    rows = run(worker, tmp_path / "all.pdf", tmp_path / "images", pages=pages, cpu_seconds=0.5)
    assert [row["status"] for row in rows] == ["ok"] * 60, rows
    assert len(tasks) > 1  # One child alone would have met the limit.


def test_page_beyond_the_pixel_limit_is_not_rendered(worker, tmp_path):
    path = write_pdf(tmp_path / "sizes.pdf", {}, {"media": (0, 0, 14_000, 14_000)}, {})
    started = time.monotonic()
    rows = run(worker, path, tmp_path / "images", dpi=300, max_pixels=5_000_000)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "too_large"), (3, "ok", None)]
    assert "images.limits.max_pixels (5000000)" in rows[1]["message"]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("engine", ENGINES)
def test_page_that_needs_too_much_memory_costs_itself(worker, tmp_path, engine):
    path = write_pdf(tmp_path / "large.pdf", {}, {"media": (0, 0, 14_400, 14_400)}, {})
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    idle = int(status.partition("VmSize:")[2].split()[0]) >> 10
    options = {"dpi": 150, "max_pixels": 1e10, "memory_mb": idle + 150}
    rows = run(worker, path, tmp_path / "images", engine=engine, **options)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "memory"), (3, "ok", None)]


@needs_poppler
def test_single_pixel_of_a_poppler_out_of_memory_is_no_page(tmp_path, monkeypatch):
    """pdftoppm ends with 0 and one white pixel where its bitmap finds no memory."""
    path = write_pages(tmp_path / "a.pdf", 1)

    def convert(*_, output_folder, **__):
        Image.new("L", (1, 1)).save(Path(output_folder, "x-1.jpg"))

    monkeypatch.setattr(pdf2image, "convert_from_path", convert)
    (engine,) = choose_engines("poppler")
    document = PdfDocument(str(path), SETTINGS, LIMITS, engine, True)
    ((number, error),) = document.images([1], tmp_path, lambda *_: None)
    assert (number, error.reason) == (1, "memory")
    assert "memory_mb" in str(error)


def test_lower_limits_of_the_machine_stay(tmp_path):
    """As batch systems set them: `ulimit -v` in the job's shell."""
    path = write_pages(tmp_path / "a.pdf", 1)
    text = json.dumps(task(path, tmp_path / "images"))
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 6000000 -t 50; exec "$0" -m scanmill.rendering', sys.executable],
        input=text + "\n",
        env={**os.environ, "PYTHONPATH": str(Path(scanmill.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["opened", "page", "render", "row", "end"]
    assert events[3]["row"]["status"] == "ok"


def test_worker_leaves_no_process_behind(tmp_path):
    worker = Worker("scanmill.rendering")
    run(worker, write_pages(tmp_path / "a.pdf", 3), tmp_path / "images")
    assert not children(worker.process.pid)
    worker.close()
    assert worker.process.returncode is not None
    assert not Path(f"/proc/{worker.process.pid}").exists()
    assert worker.process.pid not in children(os.getpid())


def test_worker_closed_at_work_takes_its_child_along(tmp_path):
    worker = Worker("scanmill.rendering")
    path = write_bomb(tmp_path / "bomb.pdf", levels=9, before=0)
    messages = worker.run(task(path, tmp_path / "images"))
    while next(messages)["event"] != "page":
        pass
    (child,) = children(worker.process.pid)
    worker.close()
    wait_until(lambda: not lives(child))


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ORPHANS = """
import json, sys
from scanmill.workers import Worker, WorkerPool, WorkersClosed
worker = Worker("scanmill.rendering")
for message in worker.run(json.loads(sys.argv[1])):
    if message["event"] == "page":
        print(worker.process.pid, flush=True)
"""


def test_worker_and_child_end_with_their_parent(tmp_path):
    path = write_bomb(tmp_path / "bomb.pdf", levels=9, before=0)
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, json.dumps(task(path, tmp_path / "images"))],
        env={**os.environ, "PYTHONPATH": str(Path(scanmill.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = int(parent.stdout.readline())
    pids = [worker, *children(worker)]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(lives, pids)))


# A pool of them -----------------------------------------------------------------------------------


def test_each_thread_has_a_worker_of_its_own_and_keeps_it():
    pool = WorkerPool(2, "scanmill.rendering")
    barrier = threading.Barrier(2, timeout=60)

    def at_once(worker):
        barrier.wait()  # Both at the same time.
        return worker.process.pid

    first = {future.result() for future in [pool.submit(at_once) for _ in range(2)]}
    again = {future.result() for future in [pool.submit(at_once) for _ in range(2)]}
    pool.close()
    assert len(first) == 2
    assert first == again
    assert not any(map(lives, first))


def test_worker_whose_user_failed_is_replaced():
    """Its answers may be out of step with the questions."""
    pool = WorkerPool(1, "scanmill.rendering")

    def fail(worker):
        raise UserError(str(worker.process.pid))

    with pytest.raises(UserError) as raised:
        pool.submit(fail).result()
    assert not lives(int(str(raised.value)))
    assert pool.submit(lambda worker: worker.process.pid).result() != int(str(raised.value))
    pool.close()


def test_pool_closed_at_work_ends_what_waits_for_it(tmp_path):
    pool = WorkerPool(1, "scanmill.rendering")
    path = write_bomb(tmp_path / "bomb.pdf", levels=9, before=0)
    busy, found = threading.Event(), []

    def work(worker):
        for message in worker.run(task(path, tmp_path / "images")):
            if message["event"] == "page":
                found.extend((worker.process.pid, *children(worker.process.pid)))
                busy.set()

    running, waiting = pool.submit(work), pool.submit(work)
    assert busy.wait(60)
    pool.close()
    with pytest.raises(WorkersClosed):
        running.result(timeout=60)
    assert waiting.cancelled()
    assert len(found) == 2
    wait_until(lambda: not any(map(lives, found)))
