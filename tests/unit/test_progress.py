"""What a job says, and how it ends where only the user can act."""

import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scanmill import progress as progress_module
from scanmill.errors import UserError
from scanmill.progress import INTERVAL, Progress, job, logger, storage_error


@pytest.fixture(autouse=True)
def handlers():
    """Leave logging as it was found."""
    before = list(logger.handlers)
    yield
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a test says so."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress_module.time, "monotonic", lambda: Clock.now)
    return Clock


# How a job ends -----------------------------------------------------------------------------------


def test_job_that_ends_well_has_its_log(tmp_path, capsys):
    log = tmp_path / "job.log"
    log.write_text("of the last time")
    with job(log):
        logger.info("computed %s", "a.pdf")
    lines = log.read_text().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO computed a\.pdf", lines[0])
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError("config.yaml: dpi is not a number. Write 300."), "config.yaml: dpi is not"),
        (
            OSError(errno.ENOSPC, "No space left on device", "results/x"),
            r"disk is full \(results/x\)",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied", "results"), "writing is not permitted"),
    ],
)
def test_what_the_user_must_mend_ends_the_job_without_traceback(tmp_path, capsys, error, says):
    log = tmp_path / "job.log"
    with pytest.raises(SystemExit) as raised, job(log):
        raise error
    assert raised.value.code == 1
    for text in (log.read_text(), capsys.readouterr().err):
        assert re.search(f"ERROR .*{says}", text)
        assert "Traceback" not in text


def test_interrupted_job_says_so_without_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised, job(tmp_path / "job.log"):
        raise KeyboardInterrupt
    assert raised.value.code == 130
    for text in ((tmp_path / "job.log").read_text(), capsys.readouterr().err):
        assert "ERROR interrupted: everything finished so far is kept" in text
        assert "Traceback" not in text


@pytest.mark.parametrize(
    "error", [ValueError("a mistake of ours"), FileNotFoundError(errno.ENOENT, "No such file")]
)
def test_mistakes_of_ours_keep_their_traceback(tmp_path, error):
    with pytest.raises(type(error)), job(tmp_path / "job.log"):
        raise error


def test_storage_errors_name_the_file_and_say_what_to_do():
    message = storage_error(OSError(errno.ENOSPC, "No space left on device", "results/a"))
    assert "(results/a)" in message
    assert "run the same command again" in message
    copied = OSError(errno.ENOSPC, "No space left on device", "archive/a", None, "results/b")
    assert "(results/b)" in storage_error(copied)
    # As pyarrow says it.
    unnumbered = OSError("[Errno 28] Error writing bytes to file. Detail: No space left on device")
    assert "the disk is full (the working directory)" in storage_error(unnumbered)
    assert storage_error(OSError(errno.EIO, "Input/output error")) is None
    assert storage_error(OSError("[Errno 5] Input/output error")) is None


FULL = """
from scanmill.progress import job, logger
with job("/dev/full"):
    logger.info("computed a.pdf")
    raise OSError(28, "No space left on device", "results/x")
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_log_on_a_full_disk_adds_no_traceback():
    done = subprocess.run(
        [sys.executable, "-c", FULL],
        env={**os.environ, "PYTHONPATH": str(Path(progress_module.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert [line.split(" ", 2)[2] for line in done.stderr.splitlines()] == [
        "INFO computed a.pdf",
        "ERROR Cannot write results: the disk is full (results/x). Mend that and run the same "
        "command again: everything finished so far is kept.",
    ]


# Progress -----------------------------------------------------------------------------------------


def test_line_tells_pages_speed_and_time_left(clock):
    progress = Progress("detect_layout", documents=4, work=100, pages=100)
    clock.now += 10
    assert progress.line() == (
        "detect_layout: 0 of 4 documents (0 reused), 0 of 100 pages, 0.00 pages/s"
    )
    progress.page(20)
    progress.document("a.pdf", "computed", 20)
    assert progress.line() == (
        "detect_layout: 1 of 4 documents (0 reused), 20 of 100 pages, 2.00 pages/s, 0:00:40 left"
    )
    progress.page(80)
    assert progress.line().endswith("100 of 100 pages, 10.00 pages/s")


def test_what_was_reused_is_no_speed(clock):
    progress = Progress("detect_layout", documents=2, work=1000, pages=1000)
    progress.document("a.pdf", "reused", 900, 900)
    clock.now += 10
    assert progress.line() == (
        "detect_layout: 1 of 2 documents (1 reused), 900 of 1000 pages, 0.00 pages/s"
    )
    progress.page(5)
    assert progress.line().endswith("905 of 1000 pages, 0.50 pages/s, 0:03:10 left")


def test_work_tells_the_time_left_where_pages_are_unknown(clock):
    progress = Progress("render_pages", documents=3, work=1000.0)
    progress.document("a.pdf", "reused", 400)
    clock.now += 60
    progress.page()
    progress.page()
    progress.document("b.pdf", "computed", 100)
    assert progress.line() == (
        "render_pages: 2 of 3 documents (1 reused), 2 pages, 0.03 pages/s, 0:05:00 left"
    )
    progress.document("c.pdf", "retried", 500)
    assert progress.line().endswith("3 of 3 documents (1 reused), 2 pages, 0.03 pages/s")


def test_nothing_to_do_is_no_division_by_zero(clock):
    for progress in (Progress("x", 0, 0), Progress("x", 0, 0, 0), Progress("x", 1, 0, 0)):
        assert "pages/s" in progress.line()
        progress.finish()


def test_line_is_logged_every_thirty_seconds(clock, caplog):
    assert INTERVAL == 30
    caplog.set_level(logging.INFO, "scanmill")
    progress = Progress("crop_regions", documents=9, work=90, pages=90)
    for _ in range(90):
        clock.now += 1
        progress.page()
    lines = [record.message for record in caplog.records]
    assert [line.split(", ")[1] for line in lines] == [f"{n} of 90 pages" for n in (30, 60, 90)]


def test_every_document_is_logged_with_its_outcome(clock, caplog):
    caplog.set_level(logging.INFO, "scanmill")
    progress = Progress("crop_regions", documents=3, work=3)
    for name, outcome in (("a b.pdf", "computed"), ("b.pdf", "reused"), ("100%25.pdf", "retried")):
        progress.document(name, outcome, 1)
    clock.now += 3725
    progress.finish()
    messages = [record.message for record in caplog.records]
    assert messages[:3] == ["computed a b.pdf", "reused b.pdf", "retried 100%25.pdf"]
    assert "3 of 3 documents (1 reused)" in messages[-1]
    assert messages[-1].endswith("; computed 0 pages; done in 1:02:05")
