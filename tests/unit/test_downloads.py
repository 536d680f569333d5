"""Files of mirrors: whole and checked, or not at all, with what is wrong."""

import hashlib
import random
import re

import pytest
from mirrors import running_mirrors

from scanmill import downloads
from scanmill.downloads import Expected, check_file, fetch_file, file_name
from scanmill.errors import UserError

DATA = b"PK\x03\x04" + random.Random(1).randbytes(50_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = (5.0, 0.5)
RIGHT = Expected(sha256=SHA256)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Dropbox - This item has been deleted</title></head></html>"


@pytest.fixture
def mirrors(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setattr(downloads, "_CHUNK", 500)
    # The proxy of the machine is not for loopback.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_mirrors() as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "model.pth"


def fetch(addresses, target, expected=RIGHT, said=None):
    say = said.append if said is not None else lambda _: None
    return fetch_file(addresses, target, expected, say, QUICK)


def refused(addresses, target, expected=RIGHT):
    """The message with which nothing is fetched, and nothing is left that may be taken for it."""
    with pytest.raises(UserError) as raised:
        fetch(addresses, target, expected)
    assert not target.exists()
    return str(raised.value)


def test_good_file(mirrors, target):
    said = []
    address = mirrors.add("/model.pth", DATA)
    assert fetch([address], target, Expected(0.05, SHA256), said) == (target, SHA256, address)
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["model.pth"]
    assert said == [f"fetching {address}"]


def test_file_that_is_there_is_checked_and_not_fetched(mirrors, target):
    address = mirrors.add("/model.pth", DATA)
    target.parent.mkdir()
    target.write_bytes(DATA)
    assert fetch([address], target) == (target, SHA256, str(target))
    target.write_bytes(DATA[:-1])
    with pytest.raises(UserError, match=r"model\.pth is another file.*not opened.*Remove it"):
        fetch([address], target)
    assert target.exists()
    assert not mirrors.requests


def test_path_is_a_mirror_and_is_read_where_it_lies(mirrors, target, tmp_path):
    mine = tmp_path / "mine.pth"
    mine.write_bytes(DATA)
    assert fetch([str(tmp_path / "none.pth"), str(mine)], target) == (mine, SHA256, str(mine))
    assert not target.exists()
    assert "none.pth is not there" in refused([str(tmp_path / "none.pth")], target)


def test_query_is_sent_and_stays_out_of_names(mirrors, target):
    address = mirrors.add("/a/model.pth", DATA) + "?download=true"
    fetch([address], target)
    assert mirrors.requests == [("/a/model.pth?download=true", None)]
    assert [path.name for path in target.parent.iterdir()] == ["model.pth"]
    assert file_name(address) == "model.pth"
    assert file_name("https://a.org/s/x/model_final.pth?dl=1#top") == "model_final.pth"
    assert file_name("/a/b c/model.pkl") == "model.pkl"


# Mirrors ------------------------------------------------------------------------------------------


def test_missing_file_is_followed_by_the_next_mirror(mirrors, target):
    said = []
    bad, good = mirrors.address("/gone.pth"), mirrors.add("/model.pth", DATA)
    assert fetch([bad, good], target, said=said)[2] == good
    assert f"{bad} answered 404 Not Found" in said
    assert mirrors.requests == [("/gone.pth", None), ("/model.pth", None)]


def test_every_mirror_that_failed_is_told_with_what_to_do_by_hand(mirrors, target, monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    addresses = [mirrors.address("/gone.pth"), mirrors.add("/page", PAGE, "page")]
    said = refused(addresses, target, Expected(330, SHA256))
    assert f"- {addresses[0]} answered 404 Not Found" in said
    assert f"- {addresses[1]} is a web page" in said
    assert f"download {addresses[0]} (330 MB) by hand, put it here as {target}" in said
    assert "set https_proxy (it is not set)" in said
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    said = refused(addresses, target)
    assert "it is http://proxy.example:3128 now" in said
    assert "secret" not in said


def test_web_page_is_named_as_such(mirrors, target):
    for way in ("page", "good"):  # With the type of one, and without.
        said = refused([mirrors.add(f"/{way}.pth", PAGE, way)], target, Expected())
        assert 'is a web page ("Dropbox - This item has been deleted"), not weights' in said


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "is a pointer of Git LFS"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML message"),
        (b'{"error": "Repository not found"}', r"is a message of the server \(JSON\)"),
        (b"\n <HTML><body>", "is a web page, not weights"),
    ],
)
def test_what_is_no_weights_is_named(mirrors, target, data, says):
    assert re.search(says, refused([mirrors.add("/model.pth", data)], target, Expected()))


def test_redirect_is_followed(mirrors, target):
    mirrors.add("/model.pth", DATA)
    address = mirrors.add("/here", b"/model.pth", "redirect")
    assert fetch([address], target)[1] == SHA256
    circle = mirrors.add("/circle", b"/circle", "redirect")
    assert "circle of redirects" in refused([circle], target.with_name("b"))


def test_redirect_from_https_to_http_is_refused():
    class Answer:
        status_code, reason, headers, url = 200, "OK", {}, "http://a.org/x"
        history = ()

    with pytest.raises(Exception, match="not encrypted"):
        downloads._check_response(Answer(), "https://a.org/x")


def test_wrong_hash_is_not_kept(mirrors, target):
    said = refused([mirrors.add("/model.pth", DATA + b"x")], target)
    assert (
        f"is another file: its sha256 is {hashlib.sha256(DATA + b'x').hexdigest()}, not {SHA256}"
        in said
    )
    assert not list(target.parent.iterdir())


def test_first_digits_of_an_md5_are_checked(mirrors, target):
    md5 = hashlib.md5(DATA).hexdigest()
    address = mirrors.add("/model.pth", DATA)
    assert "does not begin with 000000" in refused([address], target, Expected(md5="000000"))
    assert fetch([address], target, Expected(md5=md5[:6]))[1] == SHA256


def test_size_is_checked_to_one_percent(mirrors, target):
    address = mirrors.add("/model.pth", DATA)
    assert "has 0.05 MB and not 0.06, so that it was cut short" in refused(
        [address], target, Expected(0.06)
    )
    assert "has 0.05 MB and not 0.04" in refused([address], target, Expected(0.04))
    assert fetch([address], target, Expected(0.0501))


# Transfers ----------------------------------------------------------------------------------------


def test_broken_transfer_goes_on_where_it_was(mirrors, target):
    said = []
    address = mirrors.add("/model.pth", DATA, "breaks_once")
    fetch([address], target, said=said)
    assert target.read_bytes() == DATA
    assert mirrors.requests == [("/model.pth", None), ("/model.pth", f"bytes={mirrors.cut}-")]
    assert any("broke off (0.0 MB so far); trying again" in line for line in said)


def leave_part(mirrors, target, monkeypatch):
    """A part of an earlier call that was stopped."""
    address = mirrors.add("/model.pth", DATA, "breaks_once")
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "ATTEMPTS", 1)
        mirrors.ways["/model.pth"] = "stalls"
        refused([address], target)
    part = target.with_name("model.pth.part")
    assert part.read_bytes() == DATA[: mirrors.cut]
    mirrors.requests.clear()
    return address


def test_later_call_goes_on_where_an_earlier_one_was_stopped(mirrors, target, monkeypatch):
    address = leave_part(mirrors, target, monkeypatch)
    mirrors.ways["/model.pth"] = "good"
    fetch([address], target)
    assert target.read_bytes() == DATA
    assert mirrors.requests == [("/model.pth", f"bytes={mirrors.cut}-")]
    assert [path.name for path in target.parent.iterdir()] == ["model.pth"]


def test_part_of_another_file_is_not_gone_on_with(mirrors, target, monkeypatch):
    """The server has changed the file since, or it is another server."""
    address = leave_part(mirrors, target, monkeypatch)
    changed = DATA[::-1]
    mirrors.files["/model.pth"], mirrors.ways["/model.pth"] = b"PK" + changed, "other"
    fetch([address], target, Expected())
    assert target.read_bytes() == b"PK" + changed
    target.unlink()
    leave_part(mirrors, target, monkeypatch)
    fetch([mirrors.add("/mirror.pth", DATA)], target)
    assert target.read_bytes() == DATA
    assert mirrors.requests == [("/mirror.pth", None)]


def test_server_without_ranges_is_asked_for_everything(mirrors, target, monkeypatch):
    address = leave_part(mirrors, target, monkeypatch)
    mirrors.ways["/model.pth"] = "no_ranges"
    fetch([address], target)
    assert target.read_bytes() == DATA


def test_whole_part_is_taken(mirrors, target, monkeypatch):
    """All bytes had come when an earlier call was stopped."""
    address = leave_part(mirrors, target, monkeypatch)
    target.with_name("model.pth.part").write_bytes(DATA)
    mirrors.ways["/model.pth"] = "good"
    fetch([address], target)
    assert mirrors.requests == [("/model.pth", f"bytes={len(DATA)}-")]
    assert target.read_bytes() == DATA


def test_part_longer_than_the_file_is_dropped(mirrors, target, monkeypatch):
    address = leave_part(mirrors, target, monkeypatch)
    target.with_name("model.pth.part").write_bytes(DATA + b"more")
    mirrors.ways["/model.pth"] = "good"
    fetch([address], target)
    assert target.read_bytes() == DATA


def test_server_that_always_breaks_off_is_given_up(mirrors, target):
    said = refused([mirrors.add("/model.pth", DATA, "breaks")], target)
    assert "broke off (0.0 MB so far)" in said
    assert 2 < len(mirrors.requests) <= 1 + downloads.ATTEMPTS


def test_file_that_was_cut_short_on_the_server_is_not_taken(mirrors, target):
    address = mirrors.add("/model.pth", DATA, "short")
    assert "cut short" in refused([address], target, Expected(0.05))
    assert "is another file" in refused([address], target)
    assert not list(target.parent.iterdir())


def test_file_without_a_length_is_taken(mirrors, target):
    assert fetch([mirrors.add("/model.pth", DATA, "endless")], target)[1] == SHA256


@pytest.mark.parametrize("way", ["stalls", "silent"])
def test_server_that_stalls_is_left_for_the_next(mirrors, target, way):
    said = []
    slow, good = mirrors.add("/slow.pth", DATA, way), mirrors.add("/model.pth", DATA)
    assert fetch([slow, good], target, said=said)[2] == good
    assert any(line.startswith(f"{slow} ") and "for 0.5 s" in line for line in said), said
    assert target.read_bytes() == DATA


def test_server_that_is_out_of_order_is_asked_again(mirrors, target):
    said = []
    fetch([mirrors.add("/model.pth", DATA, "busy")], target, said=said)
    assert any("answered 503" in line and "trying again" in line for line in said)


def test_machine_without_network_is_told_what_to_do(target, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running_mirrors() as server:
        closed = server.address("/model.pth")
    said = refused([closed], target)
    assert f"{closed} cannot be reached: Connection refused" in said
    assert "by hand" in said


def test_proxy_that_cannot_be_reached_is_named(mirrors, target, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said = refused(["http://example.org/model.pth"], target)
    assert "cannot be reached through the proxy: Connection refused" in said


def test_progress_is_told(mirrors, target, monkeypatch):
    monkeypatch.setattr(downloads, "INTERVAL", 0.0)
    monkeypatch.setattr(downloads, "_CHUNK", 10_000)
    said = []
    fetch([mirrors.add("/model.pth", DATA)], target, said=said)
    lines = [line for line in said if " MB at " in line]
    assert len(lines) == 6
    assert re.fullmatch(r"0\.0 of 0\.1 MB at \d+\.\d MB/s, \d+ s left", lines[0])


def test_disk_error_is_not_a_mirrors_fault(mirrors, target):
    target.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="exists"):
        fetch([mirrors.add("/model.pth", DATA)], target)


def test_checked_file_is_not_changed(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(DATA)
    assert check_file(path, Expected(sha256=SHA256)) == SHA256
    assert path.read_bytes() == DATA
