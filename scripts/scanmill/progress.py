"""What a job says while it runs, and how it ends where the user has to act."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scanmill.errors import UserError

logger = logging.getLogger("scanmill")

INTERVAL = 30.0
"""Seconds between two progress lines."""

_STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
}


@contextlib.contextmanager
def job(log: str | Path) -> Iterator[None]:
    """Log to the file `log` and to stderr; end with exit status 1, without traceback, on errors that
    only the user can mend (bad settings or files, a full disk), and on Ctrl-C."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    Path(log).write_bytes(b"")
    # Appended to: a job that outlived its run may still be writing to it, too.
    file = logging.FileHandler(log, mode="a")
    # What does not fit on a full disk is said on stderr: logging would add a traceback to each line.
    file.handleError = lambda record: None
    for handler in (file, logging.StreamHandler(sys.stderr)):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except UserError as error:
        logger.error("%s", error)
        sys.exit(1)
    except OSError as error:
        cause = storage_error(error)
        if cause is None:
            raise
        logger.error("%s", cause)
        sys.exit(1)
    except KeyboardInterrupt:
        logger.error("interrupted: everything finished so far is kept; the same command goes on")
        sys.exit(128 + signal.SIGINT)


def storage_error(error: OSError) -> str | None:
    """What to tell the user where `error` says that results cannot be written; None if it doesn't."""
    # pyarrow raises OSError whose errno stands in the text alone.
    number = error.errno or next(
        (code for code in _STORAGE_ERRORS if f"[Errno {code}]" in str(error)), None
    )
    if number not in _STORAGE_ERRORS:
        return None
    # Of a copy, the second name is that of the target.
    where = error.filename2 or error.filename or "the working directory"
    return (
        f"Cannot write results: {_STORAGE_ERRORS[number]} ({where}). Mend that and run the same command "
        "again: everything finished so far is kept."
    )


class Progress:
    """Counts pages and logs, every 30 s, how many are done, how fast, and for how long it goes on.

    The estimate follows `work`, whatever unit tells best how much there is (bytes of PDF before their
    pages are known, pages later).
    """

    def __init__(self, what: str, documents: int, work: float, pages: int | None = None) -> None:
        """`pages` in all, if known."""
        self.what, self.documents, self.work, self.pages = what, documents, work, pages
        self.done_documents = self.done_pages = self.reused = self.reused_pages = 0
        self.done_work = self.reused_work = 0.0
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._next = self.started + INTERVAL

    def page(self, count: int = 1) -> None:
        """Count pages as done."""
        with self._lock:
            self.done_pages += count
            self._say_sometimes()

    def document(self, name: str, outcome: str, work: float, pages: int = 0) -> None:
        """Log one document as `computed`, `reused` or `retried`; `pages` not counted one by one."""
        with self._lock:
            self.done_documents += 1
            self.done_work += work
            self.done_pages += pages
            if outcome == "reused":
                self.reused += 1
                self.reused_work += work
                self.reused_pages += pages
            logger.info("%s %s", outcome, name)
            self._say_sometimes()

    def _say_sometimes(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            logger.info("%s", self.line())

    def line(self) -> str:
        """One line: documents and pages done of all, pages per second, time left."""
        elapsed = time.monotonic() - self.started
        of_pages = "" if self.pages is None else f" of {self.pages}"
        # What was reused cost no time: neither the speed nor the estimate may count on more of it.
        computed = self.done_pages - self.reused_pages
        text = (
            f"{self.what}: {self.done_documents} of {self.documents} documents "
            f"({self.reused} reused), {self.done_pages}{of_pages} pages, "
            f"{computed / max(elapsed, 1e-9):.2f} pages/s"
        )
        if self.pages is not None:
            done, left = computed, self.pages - self.done_pages
        else:
            done, left = self.done_work - self.reused_work, self.work - self.done_work
        if done > 0 and left > 0:
            text += f", {_duration(elapsed * left / done)} left"
        return text

    def finish(self) -> None:
        """Log the total."""
        elapsed = _duration(time.monotonic() - self.started)
        computed = self.done_pages - self.reused_pages
        logger.info("%s; computed %d pages; done in %s", self.line(), computed, elapsed)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
