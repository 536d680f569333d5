"""One file from the first of its mirrors that has it: resumed, and checked before anything opens it."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests

from scanmill.errors import UserError

#: Seconds to connect, and without a byte until a server counts as stalled.
TIMEOUT = (20.0, 60.0)
#: Attempts in a row that bring nothing, and seconds before the second; doubled each time.
ATTEMPTS = 3
PAUSE = 2.0
#: Seconds between two lines of progress.
INTERVAL = 10.0
#: Published sizes are rounded.
SIZE_TOLERANCE = 0.01

#: Bytes read at a time: what breaks off within them is lost.
_CHUNK = 1 << 16


class Expected(NamedTuple):
    """What is known of a file before it is fetched."""

    size_mb: float | None = None
    """Megabytes (10^6 bytes), to about 1 %."""
    sha256: str | None = None
    md5: str | None = None
    """The first digits of its MD5."""


class _Failed(Exception):
    """A mirror does not have the file; the text says why."""


class _Broken(_Failed):
    """A transfer ended too early; another attempt may go on."""


def fetch_file(
    mirrors: Sequence[str],
    target: Path,
    expected: Expected,
    say: Callable[[str], None],
    timeout: tuple[float, float] = TIMEOUT,
) -> tuple[Path, str, str]:
    """The file of the first mirror that has it as expected; its path, sha256 and where it came from.

    A mirror is an address, or a path, which is read where it lies. What is downloaded is put at `target`
    once it is whole and checked; until then it lies at `target`.part, where the next call goes on. A
    file that lies at `target` already is checked and taken. Raises UserError if no mirror has it, with
    what each of them said, and what to do by hand.
    """
    if target.exists():
        try:
            return target, check_file(target, expected), str(target)
        except _Failed as error:
            raise UserError(
                f"{target} {error}. It was not opened. Remove it to have it fetched, or put the "
                "right file there."
            ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for mirror in mirrors:
        try:
            if "://" not in mirror:
                path = Path(mirror)
                if not path.is_file():
                    raise _Failed("is not there")
                return path, check_file(path, expected), mirror
            part = target.with_name(f"{target.name}.part")
            _download(mirror, part, expected, say, timeout)
            try:
                digest = check_file(part, expected)
            except _Failed:
                _discard(part)
                raise
            os.replace(part, target)
            _discard(part)
            return target, digest, mirror
        except _Failed as error:
            problems.append(f"{mirror} {error}")
            say(f"{mirror} {error}")
    raise UserError(_by_hand(mirrors, target, expected, problems))


def _by_hand(
    mirrors: Sequence[str], target: Path, expected: Expected, problems: Sequence[str]
) -> str:
    tried = "\n".join(f"- {problem}" for problem in problems)
    addresses = [mirror for mirror in mirrors if "://" in mirror]
    size = f" ({expected.size_mb:g} MB)" if expected.size_mb else ""
    proxies = {name: os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY")}
    proxy = next((value for value in proxies.values() if value), None)
    text = f"{target.name} could not be fetched:\n{tried}\n"
    if addresses:
        text += (
            f"Where there is a network, download {addresses[0]}{size} by hand, put it here as "
            f"{target.resolve()}, and run the same command again: it is checked and taken. "
        )
        now = f"it is {_without_secrets(proxy)} now" if proxy else "it is not set"
        text += f"Behind a proxy, set https_proxy ({now})."
    return text.rstrip()


def _without_secrets(proxy: str) -> str:
    return re.sub(r"//[^/@]*@", "//", proxy)


# One mirror ---------------------------------------------------------------------------------------


def _download(
    url: str,
    part: Path,
    expected: Expected,
    say: Callable[[str], None],
    timeout: tuple[float, float],
) -> None:
    """Fetch `url` to `part`, going on where an earlier attempt at the same file ended."""
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _transfer(url, part, expected, say, timeout)
        except _Broken as error:
            gained = part.exists() and part.stat().st_size > before
            fruitless = 0 if gained else fruitless + 1
            if fruitless >= ATTEMPTS:
                raise
            say(f"{url} {error}; trying again")
            time.sleep(PAUSE * 2 ** max(0, fruitless - 1))


def _transfer(
    url: str,
    part: Path,
    expected: Expected,
    say: Callable[[str], None],
    timeout: tuple[float, float],
) -> None:
    note = _read_note(part)
    have = part.stat().st_size if part.exists() and note.get("url") == url else 0
    if not note.get("validator"):  # Nobody could tell whether it is still the same file.
        have = 0
    # As it is: what a server packs has another length.
    headers = {"Accept-Encoding": "identity", "User-Agent": "scanmill"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": note["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            _check_response(response, url)
            if response.status_code == 206:
                start = _range_start(response)
                if start != have:
                    _discard(part)
                    raise _Broken("went on elsewhere in the file than asked")
            elif response.status_code == 416:  # There is no more: whole, or another file by now.
                if response.headers.get("Content-Range", "").endswith(f"/{have}"):
                    return
                _discard(part)
                raise _Broken("has another file than before")
            else:
                have = 0
            length = response.headers.get("Content-Length", "")
            total = have + int(length) if length.isdigit() else None
            validator = response.headers.get("ETag", "")
            # A weak one does not promise equal bytes.
            if validator.startswith("W/") or not validator:
                validator = response.headers.get("Last-Modified", "")
            _write_note(part, {"url": url, "validator": validator})
            _receive(response, url, part, have, total, expected, say)
    except requests.Timeout:
        raise _Broken(f"did not answer for {timeout[1]:g} s ({_so_far(part, expected)})") from None
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
        raise _Failed(f"is no address to fetch from: {error}") from None
    except requests.exceptions.TooManyRedirects:
        raise _Failed("leads round in a circle of redirects") from None
    except requests.exceptions.SSLError as error:
        raise _Failed(f"has a certificate that is not trusted: {_cause(error)}") from None
    except requests.exceptions.ProxyError as error:
        raise _Failed(f"cannot be reached through the proxy: {_cause(error)}") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _Broken(f"broke off ({_so_far(part, expected)})") from None
    except requests.ConnectionError as error:
        if "Read timed out" in str(error):  # As urllib3 calls a stall within the body.
            raise _Broken(f"stalled for {timeout[1]:g} s ({_so_far(part, expected)})") from None
        if "IncompleteRead" in str(error) or have:
            raise _Broken(f"broke off ({_so_far(part, expected)})") from None
        raise _Broken(f"cannot be reached: {_cause(error)}") from None
    except requests.RequestException as error:
        raise _Failed(f"cannot be fetched: {_cause(error)}") from None


def _check_response(response: requests.Response, url: str) -> None:
    if url.startswith("https:") and any(
        each.url.startswith("http:") for each in (*response.history, response)
    ):
        raise _Failed(f"leads to an address that is not encrypted ({response.url})")
    if response.status_code >= 500 or response.status_code in (
        408,
        429,
    ):  # Timeout, too many requests.
        raise _Broken(f"answered {response.status_code} {response.reason}")
    if response.status_code not in (200, 206, 416):
        raise _Failed(f"answered {response.status_code} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _Failed(_web_page(next(response.iter_content(1 << 16), b"")))


def _range_start(response: requests.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _receive(
    response: requests.Response,
    url: str,
    part: Path,
    have: int,
    total: int | None,
    expected: Expected,
    say: Callable[[str], None],
) -> None:
    started, next_line, first = time.monotonic(), time.monotonic() + INTERVAL, have
    say(f"fetching {url}" + (f", from {_mb(have)} MB on" if have else ""))
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        for chunk in response.iter_content(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            now = time.monotonic()
            if now >= next_line:
                next_line = now + INTERVAL
                speed = (have - first) / (now - started)
                of = f" of {_mb(total)}" if total else ""
                left = f", {(total - have) / speed:.0f} s left" if total else ""
                say(f"{_mb(have)}{of} MB at {speed / 1e6:.1f} MB/s{left}")
    if total is not None and have < total:
        raise _Broken(f"broke off ({_so_far(part, expected)})")


def _mb(count: int | None) -> str:
    return f"{(count or 0) / 1e6:.1f}"


def _so_far(part: Path, expected: Expected) -> str:
    have = part.stat().st_size if part.exists() else 0
    of = f" of about {expected.size_mb:g}" if expected.size_mb else ""
    return f"{_mb(have)}{of} MB so far"


def _cause(error: Exception) -> str:
    """What an error of requests is about, without the objects it names."""
    text = str(error).rpartition("Caused by ")[2]
    found = re.search(
        r"(Name or service not known|Temporary failure in name resolution|"
        r"Connection refused|Network is unreachable|No route to host|"
        r"certificate verify failed[^)(]*|Tunnel connection failed[^')]*)",
        text,
    )
    return found[1].strip() if found else text[:200]


# Notes of parts -----------------------------------------------------------------------------------


def _note_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> dict[str, str]:
    try:
        note = json.loads(_note_file(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write_note(part: Path, note: dict[str, str]) -> None:
    _note_file(part).write_text(json.dumps(note), encoding="utf-8")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_file(part).unlink(missing_ok=True)


# Checking -----------------------------------------------------------------------------------------


def check_file(path: Path, expected: Expected) -> str:
    """The sha256 of a file that is as expected, as far as that can be told without opening it; otherwise
    an exception whose text says what it is instead."""
    with path.open("rb") as file:
        problem = _no_weights(file.read(4096))
    if problem:
        raise _Failed(problem)
    size = path.stat().st_size / 1e6
    if expected.size_mb and abs(size - expected.size_mb) > SIZE_TOLERANCE * expected.size_mb:
        short = ", so that it was cut short" if size < expected.size_mb else ""
        raise _Failed(f"has {size:.2f} MB and not {expected.size_mb:g}{short}")
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    if expected.sha256 and sha256.hexdigest() != expected.sha256:
        raise _Failed(f"is another file: its sha256 is {sha256.hexdigest()}, not {expected.sha256}")
    if expected.md5 and not md5.hexdigest().startswith(expected.md5):
        raise _Failed(
            f"is another file: its MD5 is {md5.hexdigest()}, which does not begin with {expected.md5}"
        )
    return sha256.hexdigest()


def _no_weights(head: bytes) -> str | None:
    """What a file is that begins in a way in which no weights do."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return _web_page(head)
    if text.startswith(b"<?xml"):
        return "is an XML message of the server, not weights"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights that it points to"
    if text.startswith((b"{", b"[")):
        return "is a message of the server (JSON), not weights"
    return None


def _web_page(head: bytes) -> str:
    title = re.search(rb"<title[^>]*>(.*?)</title", head, re.IGNORECASE | re.DOTALL)
    shown = html.unescape(title[1].decode("utf-8", "replace")).strip()[:80] if title else ""
    named = f' ("{shown}")' if shown else ""
    return f"is a web page{named}, not weights: the link is dead, or asks to sign in"


def file_name(url: str) -> str:
    """The last part of the path of an address or file, without query and fragment."""
    path = urlsplit(url).path if "://" in url else url
    return Path(path).name
