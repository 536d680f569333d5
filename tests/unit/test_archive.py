"""Listing an archive, naming its documents, planning its shards."""

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from scanmill import archive
from scanmill.archive import Document
from scanmill.errors import UserError

SETTINGS = {
    "path": None,
    "image_folders": "document",
    "include": ["**"],
    "exclude": [],
    "follow_links": False,
    "max_missing": 0.02,
}


def write(path: Path | bytes, content: bytes = b"x") -> None:
    path = os.fsencode(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def listed(folder: Path, **settings) -> dict[str, str]:
    """Kind by document."""
    listing = archive.list_archive(folder, SETTINGS | settings)
    assert [d.document for d in listing.documents] == sorted(d.document for d in listing.documents)
    assert len({d.document for d in listing.documents}) == len(listing.documents)
    return {document.document: document.kind for document in listing.documents}


def tiff(pages: int, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of `pages` IFDs with one entry each and no pixels."""
    magic = {"<": b"II", ">": b"MM"}[order]
    header = magic + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    )
    ifds = b""
    size = 36 if big else 18
    for page in range(pages):
        following = 0 if page == pages - 1 else len(header) + (page + 1) * size
        if big:
            ifds += struct.pack(f"{order}QHHQQQ", 1, 256, 4, 1, 7, following)
        else:
            ifds += struct.pack(f"{order}HHHIII", 1, 256, 4, 1, 7, following)
    return header + ifds


@contextmanager
def as_ordinary_user():
    """Root may read everything: give that up for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def document(name: str, size: int = 1, **fields) -> Document:
    return Document(name, fields.pop("kind", "pdf"), name, size, 1, **fields)


# Names


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"a/b c.pdf", "a/b c.pdf"),
        (b"50%.pdf", "50%25.pdf"),
        (b"%41.pdf", "%2541.pdf"),
        (b"a\nb\tc\x7f.pdf", "a%0Ab%09c%7F.pdf"),
        ("a\x85\u2028\u2029.pdf".encode(), "a%C2%85%E2%80%A8%E2%80%A9.pdf"),
        (b"\xff\xfe.pdf", "%FF%FE.pdf"),
        ("\u00e9.pdf".encode(), "\u00e9.pdf"),
        ("e\u0301.pdf".encode(), "e\u0301.pdf"),
        (b"'\"$`\\.pdf", "'\"$`\\.pdf"),
        ("\U0001f4d6.pdf".encode(), "\U0001f4d6.pdf"),
        (b"\xed\xa0\x80", "%ED%A0%80"),  # a surrogate, which UTF-8 does not have
    ],
)
def test_names_are_encoded_reversibly(raw, name):
    assert archive.encode_name(raw) == name
    assert archive.decode_name(name) == raw
    assert archive.encode_name(raw.decode("utf-8", "surrogateescape")) == name


def test_any_bytes_come_back_and_give_one_printable_line():
    rng = random.Random(0)
    for _ in range(3000):
        raw = bytes(rng.randrange(1, 256) for _ in range(rng.randrange(1, 30)))
        name = archive.encode_name(raw)
        assert archive.decode_name(name) == raw
        assert len(name.splitlines()) == 1
        assert "\t" not in name
        assert name.encode() == name.encode("utf-8", "strict")
    every_character = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x30000)]))
    assert archive.decode_name(archive.encode_name(every_character)) == every_character.encode()


def test_store_path_keeps_ordinary_names():
    for name in ("a.pdf", "images/b.pdf", "x/Images/b.pdf", "50%25/\u00e9 '.pdf", ".tmp-a"):
        assert archive.store_path(name) == name


def test_store_path_keeps_clear_of_the_stages_own_names():
    assert archive.store_path(".") == "%2E"
    assert archive.store_path("a/images/x.pdf") == "a/%69mages/x.pdf"
    assert archive.store_path("a/source.json") == "a/%73ource.json"
    assert archive.store_path("a/.tmp-1/b") == "a/%2Etmp-1/b"


def test_store_path_of_long_names():
    name = archive.encode_name(b"\xff" * 255)
    path = archive.store_path(f"a/{name}/b.pdf")
    assert [len(part) for part in path.split("/")] == [1, 200 + 2 + 16, 5]
    accents = "\u20ac" * 85  # 255 bytes: as long as a file's name may be
    assert archive.store_path(accents) == accents
    cut = archive.store_path("\u20ac" * 86)
    assert cut.startswith("\u20ac" * 66 + "%~")  # 198 bytes: 200 would cut a character
    assert cut != archive.store_path("\u20ac" * 87)


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/", "..", "a/../../b"])
def test_store_path_refuses_what_leads_elsewhere(name):
    with pytest.raises(ValueError, match="not a document's name"):
        archive.store_path(name)


def test_store_paths_are_distinct_and_disjoint():
    """Of many names made to collide: no two paths equal, none inside what a stage owns."""
    rng = random.Random(1)
    reserved = sorted(archive.RESERVED_NAMES)
    parts = [
        *reserved,
        *(archive.encode_name(f"%{ord(name[0]):02X}{name[1:]}") for name in reserved),
        *(archive.encode_name(f"%2E{name}") for name in ("", ".", "tmp-")),
        ".tmp-",
        "a",
        "A",
        "a.pdf",
        "a.PDF",
        "a.pdf.d",
        "0001.jpg",
        "\u00e9",
        "e\u0301",
        *("x" * n for n in (199, 200, 254, 255)),
        *(archive.encode_name(b"\xff" * n + end) for n in (84, 85, 86, 254) for end in (b"", b"a")),
        ".tmp-" + "y" * 250,
    ]
    names = {".", *parts, *(f"{a}/{b}" for a in parts for b in parts)}
    names |= {"/".join(rng.choices(parts, k=rng.randrange(1, 6))) for _ in range(50_000)}
    assert len(names) > 30_000
    paths = {name: archive.store_path(name) for name in names}
    assert len(set(paths.values())) == len(names)
    for path in paths.values():
        first, *others = path.split("/")
        assert first not in ("", ".", "..")
        for part in (first, *others):
            assert len(part.encode()) <= 255
        for part in others:
            assert part not in ("", ".", "..")
            assert part not in archive.RESERVED_NAMES
            assert not part.startswith(".tmp-")


# Globs


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("**", [".", "a.pdf", "a/b/c.pdf"], []),
        ("*", [".", "a.pdf"], ["a/b.pdf"]),
        ("*.pdf", ["a.pdf", ".pdf"], ["a/b.pdf", "a.PDF", "apdf"]),
        ("**/*.pdf", ["a.pdf", "a/b.pdf", "a/b/c.pdf"], ["a.pdf/b.tif"]),
        ("a/**", ["a", "a/b.pdf", "a/b/c.pdf"], ["ab", "b/a/c.pdf"]),
        ("a/**/b.pdf", ["a/b.pdf", "a/x/b.pdf", "a/x/y/b.pdf"], ["a/xb.pdf", "ab.pdf"]),
        ("**/a/**", ["a", "x/a", "a/b", "x/a/b"], ["xa/b", "x/ab"]),
        ("a**z", ["az", "a/b/z", "abz"], ["azb"]),
        ("a?.pdf", ["ab.pdf"], ["a.pdf", "a/.pdf"]),
        ("a?b", [], ["a/b"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", "/x"]),
        ("[[]x]", ["[x]"], ["x"]),
        ("[]x]", ["]", "x"], ["a"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("a[", ["a["], ["a"]),
        ("a.b+(c)|{d}$", ["a.b+(c)|{d}$"], ["axb+(c)", "a.b+(c)"]),
        ("50%25.pdf", ["50%25.pdf"], ["50%.pdf"]),
    ],
)
def test_globs(pattern, yes, no):
    regex = re.compile(archive.glob_regex(pattern))
    assert [name for name in yes + no if regex.fullmatch(name)] == yes


def test_a_glob_that_is_none(tmp_path):
    write(tmp_path / "a.pdf")
    with pytest.raises(UserError, match=r"archive.exclude: '\[z-a\]' is not a glob"):
        listed(tmp_path, exclude=["[z-a]"])


# Listing


def test_kinds_of_documents(tmp_path):
    write(tmp_path / "a.pdf", b"12345")
    write(tmp_path / "sub/B.PDF")
    write(tmp_path / "multi.tif", tiff(3))
    write(tmp_path / "book/p1.tiff", tiff(1))
    write(tmp_path / "book/p2.JPEG", b"123")
    write(tmp_path / "book/notes.txt")
    write(tmp_path / "book/.hidden.jpg")
    write(tmp_path / ".trash/c.pdf")
    write(tmp_path / "README")
    os.utime(tmp_path / "book/p1.tiff", ns=(5, 2_000_000_001))
    os.utime(tmp_path / "book/p2.JPEG", ns=(5, 1_000_000_001))
    listing = archive.list_archive(tmp_path, SETTINGS)
    assert [(d.document, d.kind, d.path) for d in listing.documents] == [
        ("a.pdf", "pdf", "a.pdf"),
        ("book", "images", "book"),
        ("multi.tif", "tiff", "multi.tif"),
        ("sub/B.PDF", "pdf", "sub/B.PDF"),
    ]
    pdf, book, *_ = listing.documents
    assert pdf.size == 5
    assert pdf.mtime_ns == (tmp_path / "a.pdf").stat().st_mtime_ns
    assert book.size == len(tiff(1)) + 3
    assert book.mtime_ns == 2_000_000_001
    assert re.fullmatch("[0-9a-f]{16}", book.listing)
    assert (pdf.listing, pdf.pages, pdf.columns) == ("", "", "")
    assert listing.skipped == {archive.HIDDEN: 2, ".txt": 1, archive.NO_SUFFIX: 1}
    assert listing.unreadable == {}


def test_each_image_its_own(tmp_path):
    write(tmp_path / "p1.jpg", b"123")
    write(tmp_path / "book/p1.tif", tiff(1))
    write(tmp_path / "book/p2.tif", tiff(2))
    assert listed(tmp_path, image_folders="pages") == {
        "p1.jpg": "image",
        "book/p1.tif": "image",
        "book/p2.tif": "tiff",
    }


def test_images_of_the_root_and_of_its_folders_are_apart(tmp_path):
    for name in ("1.jpg", "a/1.png", "a/images/1.jp2", "a/images/x.pdf"):
        write(tmp_path / name)
    documents = listed(tmp_path)
    assert documents == {
        ".": "images",
        "a": "images",
        "a/images": "images",
        "a/images/x.pdf": "pdf",
    }
    assert archive.store_path("a/images") == "a/%69mages"
    root = archive.list_archive(tmp_path, SETTINGS).documents[0]
    assert os.path.samefile(archive.source_path(tmp_path, root), tmp_path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_pages_of_tiffs(tmp_path, order, big):
    path = tmp_path / "a.tif"
    for pages, expected in ((1, False), (2, True), (5, True)):
        path.write_bytes(tiff(pages, order, big))
        assert archive.is_multipage_tiff(os.fsencode(path)) is expected
    whole = tiff(2, order, big)
    for length in range(len(whole) // 2):
        path.write_bytes(whole[:length])
        assert not archive.is_multipage_tiff(os.fsencode(path))


def test_hostile_tiffs_count_as_page_images(tmp_path):
    path = tmp_path / "a.tif"
    one = tiff(1)
    huge = 2**64 - 1
    for content in (
        b"",
        b"%PDF-1.4",
        one[:-4] + struct.pack("<I", 8),  # its own successor
        one[:-4] + struct.pack("<I", 2**32 - 1),  # a successor beyond the end
        b"II" + struct.pack("<HI", 42, 0),
        b"II" + struct.pack("<HHHQ", 43, 8, 0, huge),
        b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, huge),
        bytes(random.Random(0).randbytes(500)),
    ):
        path.write_bytes(content)
        assert not archive.is_multipage_tiff(os.fsencode(path))
    assert not archive.is_multipage_tiff(os.fsencode(tmp_path))
    assert not archive.is_multipage_tiff(b"/nowhere/a.tif")
    assert listed(tmp_path) == {".": "images"}


def test_tiffs_as_pillow_writes_them(tmp_path):
    image = pytest.importorskip("PIL.Image").new("1", (20, 10))
    image.save(tmp_path / "one.tif", compression="group4")
    image.save(tmp_path / "two.tif", save_all=True, append_images=[image])
    image.save(tmp_path / "big.tif", save_all=True, append_images=[image], big_tiff=True)
    assert listed(tmp_path) == {".": "images", "two.tif": "tiff", "big.tif": "tiff"}


def test_hostile_names(tmp_path):
    names = [
        b"a b.pdf",
        b'it\'s "quoted".pdf',
        b"line\nbreak.pdf",
        b"tab\t.pdf",
        b"\xff\xfe.pdf",
        "\u00e9.pdf".encode(),
        unicodedata.normalize("NFD", "\u00e9.pdf").encode(),
        b"x" * 251 + b".pdf",
        b"\xfe" * 251 + b".pdf",
        b"case.pdf",
        b"CASE.pdf",
        b"case.PDF",
        b"case.tif",
        b"50%.pdf",
        b"50%25.pdf",
        b"a.pdf",
        b"a.pdf.d/b.pdf",
        b"folder.pdf/c.pdf",
        b"-rf.pdf",
        b"*[a].pdf",
        b"$(id).pdf",
        b"\xff/\xfe/a.pdf",
    ]
    for name in names:
        write(os.path.join(os.fsencode(tmp_path), name), tiff(2))
    listing = archive.list_archive(tmp_path, SETTINGS)
    assert {archive.decode_name(d.document) for d in listing.documents} == set(names)
    assert len({archive.store_path(d.document) for d in listing.documents}) == len(names)
    for found in listing.documents:
        with open(archive.source_path(tmp_path, found), "rb") as file:
            assert file.read() == tiff(2)
    manifest = tmp_path / "shards/00000.tsv"
    archive.write_manifest(manifest, listing.documents)
    assert archive.read_manifest(manifest) == listing.documents
    assert len(manifest.read_bytes().splitlines()) == len(names) + 1


def test_deep_folders_need_no_recursion(tmp_path):
    depth = sys.getrecursionlimit() + 100
    subprocess.run(["mkdir", "-p", tmp_path / ("d/" * depth)], check=True)
    (tmp_path / ("d/" * depth) / "a.pdf").touch()
    assert listed(tmp_path) == {"d/" * depth + "a.pdf": "pdf"}
    # Python's own rmtree, with which pytest tidies up, does recurse.
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_page_files_in_natural_order(tmp_path):
    names = [b"1.jpg", b"1a.jpg", b"2.jpg", b"10.jpg", b"P2.png", b"p10.png", b"page.jpg"]
    names += [b"page-2.jpg", b"\xff1.jpg", b"\xff12.jpg"]
    folder = os.fsencode(tmp_path)
    for name in [*names, b"doc.pdf", b".1.jpg", b"b.txt"]:
        write(os.path.join(folder, name))
    write(tmp_path / "multi.tif", tiff(2))
    pages = archive.page_files(folder, None)
    assert set(pages) == set(names)
    for earlier, later in (
        (b"1.jpg", b"1a.jpg"),
        (b"1a.jpg", b"2.jpg"),
        (b"2.jpg", b"10.jpg"),
        (b"P2.png", b"p10.png"),
        (b"page.jpg", b"page-2.jpg"),
    ):
        assert pages.index(earlier) < pages.index(later)


def test_natural_order_is_one_order(tmp_path):
    """Whatever the names: sorting from any order gives the same, equal keys there are none."""
    rng = random.Random(2)
    alphabet = [b"0", b"1", b"01", b"9", b"a", b"A", b"-", b"_", b" ", b"%", b"\xff", b"."]
    alphabet += [text.encode() for text in ("\u00e9", "e\u0301", "\u00b2", "\u0663", "\u00bd")]
    names = {b"".join(rng.choices(alphabet, k=rng.randrange(1, 8))) for _ in range(3000)}
    names |= {b"9" * 250, b"1" * 250}
    expected = sorted(names, key=archive._natural_key)
    shuffled = list(names)
    for _ in range(3):
        rng.shuffle(shuffled)
        assert sorted(shuffled, key=archive._natural_key) == expected


def test_any_change_of_a_page_file_shows(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        write(tmp_path / "book" / name, b"abc")
        os.utime(tmp_path / "book" / name, ns=(1, 1))
    seen = set()

    def look():
        listing = archive.list_archive(tmp_path, SETTINGS)
        seen.add((listing.documents[0].listing, archive.listing_digest(listing)))

    look()
    look()
    assert len(seen) == 1
    os.utime(tmp_path / "book/1.jpg", ns=(1, 2))
    look()
    write(tmp_path / "book/1.jpg", b"abcd")
    os.utime(tmp_path / "book/1.jpg", ns=(1, 2))
    look()
    (tmp_path / "book/1.jpg").rename(tmp_path / "book/3.jpg")
    look()
    assert len(seen) == 4
    write(tmp_path / "book/notes.txt")
    look()
    assert len(seen) == 4


def test_the_file_systems_order_does_not_show():
    pages = [(b"%d.jpg" % n, n, n) for n in range(20)]
    contents = archive._Contents([], pages, [], Counter(), [])
    turned = contents._replace(pages=pages[::-1])
    assert archive._image_folder("a", "a", contents) == archive._image_folder("a", "a", turned)


def test_include_and_exclude(tmp_path):
    for name in ("a.pdf", "x/b.pdf", "x/y/c.pdf", "x/1.jpg", "z/d.tif"):
        write(tmp_path / name, tiff(2))
    assert set(listed(tmp_path, include=["x/**"])) == {"x", "x/b.pdf", "x/y/c.pdf"}
    assert set(listed(tmp_path, exclude=["x/**"])) == {"a.pdf", "z/d.tif"}
    assert set(listed(tmp_path, include=["**/*.pdf", "z/*"], exclude=["x/*"])) == {
        "a.pdf",
        "x/y/c.pdf",
        "z/d.tif",
    }
    listing = archive.list_archive(tmp_path, SETTINGS | {"exclude": ["x/*"]})
    assert listing.skipped == {archive.EXCLUDED: 1}
    with pytest.raises(UserError, match=r"5 left out by archive\.include"):
        listed(tmp_path, include=[])


# Links and other files


def test_links(tmp_path):
    folder, elsewhere = tmp_path / "archive", tmp_path / "archive-2"
    write(folder / "in/a.pdf")
    write(folder / "in/1.jpg")
    write(folder / ".git/annex/key", b"12345")
    write(elsewhere / "b.pdf")
    write(elsewhere / "2.jpg")
    links = {
        "to_file.pdf": "in/a.pdf",
        "annexed.pdf": ".git/annex/key",
        "out.pdf": elsewhere / "b.pdf",
        "out_relative.pdf": "../archive-2/b.pdf",
        "out.txt": elsewhere / "b.pdf",
        "out_folder": elsewhere,
        "in_folder": "in",
        "up": ".",
        "in/up": "..",
        "in/2.jpg": elsewhere / "2.jpg",
        "in/3.jpg": "1.jpg",
        "in/4.jpg": "nothing",
        "gone.pdf": "nothing",
        "gone.tif": "/nowhere/gone.tif",
        "gone.txt": "nothing",
        "itself.pdf": "itself.pdf",
        "ping.pdf": "pong.pdf",
        "pong.pdf": "ping.pdf",
        ".hidden": elsewhere,
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    expected = {
        "in": "images",
        "in/a.pdf": "pdf",
        "to_file.pdf": "pdf",
        "annexed.pdf": "pdf",
        "out.pdf": "outside",
        "out_relative.pdf": "outside",
        "out_folder": "outside",
        "in/2.jpg": "outside",
        "in/4.jpg": "missing",
        "gone.pdf": "missing",
        "gone.tif": "missing",
        "itself.pdf": "missing",
        "ping.pdf": "missing",
        "pong.pdf": "missing",
    }
    assert listed(folder) == expected
    listing = archive.list_archive(folder, SETTINGS)
    assert listing.skipped == {
        archive.HIDDEN: 2,
        archive.FOLDER_LINK: 3,
        archive.DANGLING_LINK: 1,
        ".txt": 1,
    }
    assert {d.size for d in listing.documents if d.document == "annexed.pdf"} == {5}
    assert {d.size for d in listing.documents if d.kind in ("outside", "missing")} == {0}
    boundary = archive.link_boundary(folder, SETTINGS)
    assert archive.page_files(os.fsencode(folder / "in"), boundary) == [b"1.jpg", b"3.jpg"]

    # The same archive through a link to it.
    (tmp_path / "alias").symlink_to(folder)
    assert listed(tmp_path / "alias") == expected
    alias = os.fsencode(tmp_path / "alias/in")
    assert archive.link_boundary(tmp_path / "alias", SETTINGS) == boundary
    assert archive.page_files(alias, boundary) == [b"1.jpg", b"3.jpg"]


def test_links_followed(tmp_path):
    folder, elsewhere = tmp_path / "archive", tmp_path / "elsewhere"
    write(folder / "in/a.pdf")
    write(folder / "in/1.jpg")
    write(elsewhere / "b.pdf")
    (elsewhere / "back").symlink_to(folder)
    (elsewhere / "self").symlink_to(elsewhere)
    (folder / "out").symlink_to(elsewhere)
    (folder / "out.pdf").symlink_to(elsewhere / "b.pdf")
    (folder / "in/2.jpg").symlink_to(elsewhere / "b.pdf")
    (folder / "again").symlink_to("in")
    (folder / "in/up").symlink_to("..")
    (folder / "gone.pdf").symlink_to("nothing")
    assert listed(folder, follow_links=True) == {
        "in": "images",
        "in/a.pdf": "pdf",
        "again": "images",
        "again/a.pdf": "pdf",
        "out/b.pdf": "pdf",
        "out.pdf": "pdf",
        "gone.pdf": "missing",
    }
    listing = archive.list_archive(folder, SETTINGS | {"follow_links": True})
    assert listing.skipped == {archive.LOOP_LINK: 4}
    boundary = archive.link_boundary(folder, SETTINGS | {"follow_links": True})
    assert boundary is None
    assert archive.page_files(os.fsencode(folder / "in"), boundary) == [b"1.jpg", b"2.jpg"]


def test_what_is_no_file_is_never_opened(tmp_path):
    write(tmp_path / "a.pdf")
    for name in ("pipe.pdf", "pipe.tif", "book/pipe.jpg", "pipe.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    (tmp_path / "link.pdf").symlink_to("pipe.txt")
    (tmp_path / "device.pdf").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # the path of a socket must be short
        try:
            server.bind("socket.pdf")
        finally:
            os.chdir(here)
        expected = {
            "a.pdf": "pdf",
            "pipe.pdf": "unsupported",
            "pipe.tif": "unsupported",
            "book/pipe.jpg": "unsupported",
            "link.pdf": "unsupported",
            "socket.pdf": "unsupported",
        }
        assert listed(tmp_path) == expected | {"device.pdf": "outside"}
        assert listed(tmp_path, follow_links=True) == expected | {"device.pdf": "unsupported"}


def open_to_all(folder):
    """Have other users enter a folder, and those around it below that of temporary files."""
    temporary = Path(tempfile.gettempdir())
    for each in (folder, *folder.parents):
        if each != temporary and each.is_relative_to(temporary):
            each.chmod(0o755)


def test_unreadable_folders_are_named(tmp_path):
    open_to_all(tmp_path)
    write(tmp_path / "a.pdf")
    write(tmp_path / "closed/b.pdf")
    write(tmp_path / "listed/c.pdf")
    (tmp_path / "to_closed.pdf").symlink_to("closed/b.pdf")
    (tmp_path / "closed").chmod(0)
    (tmp_path / "listed").chmod(0o644)
    with as_ordinary_user():
        listing = archive.list_archive(tmp_path, SETTINGS)
        out = archive.list_archive(tmp_path, SETTINGS | {"exclude": ["closed/**", "listed/*"]})
    (tmp_path / "closed").chmod(0o755)
    (tmp_path / "listed").chmod(0o755)
    assert [d.document for d in listing.documents] == ["a.pdf"]
    assert listing.unreadable == dict.fromkeys(
        ("closed", "listed/c.pdf", "to_closed.pdf"), "Permission denied"
    )
    assert out.unreadable == {"to_closed.pdf": "Permission denied"}
    with pytest.raises(UserError, match="closed: Permission denied") as error:
        archive.check_missing({}, listing.documents, 1, listing.unreadable)
    assert 'archive.exclude: ["closed/**"]' in str(error.value)
    readable = archive.list_archive(tmp_path, SETTINGS)
    assert readable.unreadable == {}
    without = archive.Listing(listing.documents, listing.skipped, {})
    assert archive.listing_digest(listing) != archive.listing_digest(without)


def test_pages_of_an_unreadable_file_are_an_error(tmp_path, monkeypatch):
    write(tmp_path / "1.jpg")
    real = archive._scan_folder(os.fsencode(tmp_path), None)
    broken = real._replace(pages=[], unreadable=[(b"1.jpg", OSError(5, "Input/output error"))])
    monkeypatch.setattr(archive, "_scan_folder", lambda folder, boundary: broken)
    with pytest.raises(OSError, match="Input/output error"):
        archive.page_files(os.fsencode(tmp_path), None)


def test_archives_that_are_none(tmp_path):
    with pytest.raises(
        UserError, match=r"/nowhere/scans: No such file or directory.*archive\.path"
    ):
        listed(Path("/nowhere/scans"))
    write(tmp_path / "a.pdf")
    with pytest.raises(UserError, match="neither a folder nor a CSV"):
        listed(tmp_path / "a.pdf")
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(UserError, match=r"has no documents.*Found: nothing else"):
        listed(folder)
    for name in ("a.docx", "b.DOCX", "c.txt", ".d.pdf", "e"):
        write(folder / name)
    with pytest.raises(UserError) as error:
        listed(folder)
    assert "2 .docx, 1 .txt, 1 names beginning with a dot, 1 without suffix" in str(error.value)


# CSV


def csv_archive(folder: Path, text: str | bytes) -> Path:
    path = folder / "archive.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv(tmp_path):
    write(tmp_path / "scans/a.pdf", b"12345")
    write(tmp_path / "scans/50%.pdf")
    write(tmp_path / "scans/book/10.jpg", b"123")
    write(tmp_path / "scans/book/2.jpg", b"123")
    write(tmp_path / "scans/book/inner/1.jpg")
    write(tmp_path / "scans/book/extra.pdf")
    write(tmp_path / "scans/multi.tif", tiff(2))
    write(tmp_path / "scans/one.tif", tiff(1))
    write(tmp_path / "scans/odd.doc")
    write(tmp_path / "scans/nameless")
    path = csv_archive(
        tmp_path,
        "\ufeffdocument,path,pages,date,title\r\n"
        'B 1,scans/a.pdf,"1-3, 5",1890-01-01,"A ""title"", with\na line\tand tab \u00e9\u2028"\r\n'
        "a/50%,scans/50%.pdf,,,\r\n"
        "\r\n"
        f"book,{tmp_path}/scans/book,,,\r\n"
        "multi,scans/multi.tif,,,\r\n"
        "one,scans/one.tif,,,\r\n"
        "odd,scans/odd.doc,,,\r\n"
        "nameless,scans/nameless,,,\r\n"
        '"new\nline",scans/a.pdf,,,\r\n'
        "gone,scans/gone.pdf,,,\r\n"
        "gone 2,scans/a.pdf/b.pdf,,,\r\n"
        "pipe,/dev/null,,,\r\n",
    )
    listing = archive.list_archive(path, SETTINGS)
    assert {d.document: (d.kind, d.path) for d in listing.documents} == {
        "B 1": ("pdf", "scans/a.pdf"),
        "a/50%25": ("pdf", "scans/50%25.pdf"),
        "book": ("images", f"{archive.encode_name(str(tmp_path))}/scans/book"),
        "multi": ("tiff", "scans/multi.tif"),
        "one": ("image", "scans/one.tif"),
        "odd": ("pdf", "scans/odd.doc"),
        "nameless": ("pdf", "scans/nameless"),
        "new%0Aline": ("pdf", "scans/a.pdf"),
        "gone": ("missing", "scans/gone.pdf"),
        "gone 2": ("missing", "scans/a.pdf/b.pdf"),
        "pipe": ("unsupported", "/dev/null"),
    }
    first = listing.documents[0]
    assert (first.document, first.pages, first.size) == ("B 1", "1-3,5", 5)
    assert first.columns.isascii()
    assert "\n" not in first.columns
    assert json.loads(first.columns) == {
        "date": "1890-01-01",
        "title": 'A "title", with\na line\tand tab \u00e9\u2028',
    }
    by_name = {d.document: d for d in listing.documents}
    assert by_name["book"].size == 6
    assert by_name["book"].listing
    book = archive.source_path(path, by_name["book"])
    boundary = archive.link_boundary(path, SETTINGS)
    assert archive.page_files(book, boundary) == [b"2.jpg", b"10.jpg"]
    assert listing.skipped == {archive.CSV_SUBFOLDER: 1, ".pdf": 1}
    assert os.path.samefile(archive.source_path(path, first), tmp_path / "scans/a.pdf")
    manifest = tmp_path / "00000.tsv"
    archive.write_manifest(manifest, listing.documents)
    assert archive.read_manifest(manifest) == listing.documents


def test_csv_without_further_columns(tmp_path):
    write(tmp_path / "a.pdf")
    listing = archive.list_archive(csv_archive(tmp_path, "path,document\na.pdf,x\n"), SETTINGS)
    assert listing.documents[0].columns == ""
    path = csv_archive(tmp_path, "path,document\na.pdf,x\na.pdf,y\n")
    assert listed(path, exclude=["y"]) == {"x": "pdf"}


def test_lost_page_images_of_a_csv_folder_fail(tmp_path):
    write(tmp_path / "book/1.jpg")
    (tmp_path / "book/2.jpg").symlink_to("nothing")
    (tmp_path / "book/3.jpg").symlink_to("nothing")
    text = "document,path,date\nb,book/,1900\nb/3.jpg,book/1.jpg,\n"
    documents = archive.list_archive(csv_archive(tmp_path, text), SETTINGS).documents
    assert [(d.document, d.kind, d.path) for d in documents] == [
        ("b", "images", "book/"),
        ("b/2.jpg", "missing", "book/2.jpg"),
        ("b/3.jpg", "image", "book/1.jpg"),
    ]
    assert json.loads(documents[1].columns) == {"date": "1900"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("document;path\na;a.pdf\n", "line 1: there is no column document and no column path"),
        ("document,file\na,a.pdf\n", "line 1: there is no column path; found 'document', 'file'"),
        ("document,path,\na,a.pdf,\n", "line 1: a column has no name"),
        ("document,path,Status\na,a.pdf,\n", "line 1: columns 'Status': documents.parquet"),
        ("document,path,sha256\na,a.pdf,\n", "line 1: columns 'sha256': documents.parquet"),
        ("document,path,x,X\na,a.pdf,,\n", "line 1: columns 'x', 'X': the same name"),
        ("document,path\n", "has no documents"),
        ("document,path\na,a.pdf\nb\n", "line 3: 1 fields under 2 columns"),
        ("document,path\na,a,b.pdf\n", "line 2: 3 fields under 2 columns"),
        ('document,path\n"a\n\nb",a.pdf\n"a\n\nb",a.pdf\n', "line 5: the document .* on line 2"),
        ("document,path\n,a.pdf\n", "line 2: document and path must both"),
        ("document,path\n  ,a.pdf\n", "line 2: document and path must both"),
        ("document,path\na,\n", "line 2: document and path must both"),
        ("document,path\n/a,a.pdf\n", "line 2: '/a' cannot be a document's name"),
        ("document,path\na/../b,a.pdf\n", "line 2: 'a/../b' cannot be a document's name"),
        ("document,path\na//b,a.pdf\n", "line 2: 'a//b' cannot be a document's name"),
        ("document,path\n.,a.pdf\n", "line 2: '.' cannot be a document's name"),
        ("document,path\na/,a.pdf\n", "line 2: 'a/' cannot be a document's name"),
        ("document,path\na,a\0.pdf\n", "line 2: the path .* holds a NUL"),
        ("document,path,pages\na,a.pdf,5-1\n", "line 2: pages: '5-1' is not a page"),
        ('document,path\na,"a.pdf\n', "line 2: not CSV"),
        (f"document,path\na,{'x' * 200_000}\n", "line 2: not CSV"),
        (b"document,path\na,a.pdf\n\xe9,b.pdf\n", "line 3: not UTF-8"),
        ("document,path\na,a.pdf\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path, text, message):
    write(tmp_path / "a.pdf")
    path = csv_archive(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        listed(path)
    assert str(path) in str(error.value)


def test_unreadable_csv(tmp_path):
    path = csv_archive(tmp_path, "document,path\n")
    path.chmod(0)
    open_to_all(tmp_path)
    with as_ordinary_user(), pytest.raises(UserError, match=r"archive\.csv: Permission denied"):
        listed(path)


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("", None),
        ("  ", None),
        ("8", [8]),
        ("1-5,8", [1, 2, 3, 4, 5, 8]),
        (" 8 , 1 - 3 ", [1, 2, 3, 8]),
        ("3,1-3,2", [1, 2, 3]),
        ("007", [7]),
    ],
)
def test_selections_of_pages(text, pages):
    assert archive.parse_pages(text) == pages


@pytest.mark.parametrize(
    "text",
    ["0", "0-3", "5-1", "-5", "5-", ",", "1,", "a", "1-2-3", "1 2", "1.5", "\u0663", "1-999999999"],
)
def test_what_selects_no_pages(text):
    with pytest.raises(ValueError, match="not a page or a range"):
        archive.parse_pages(text)


# Shards


def shard_names(shards: dict[str, list[Document]]) -> dict[str, list[str]]:
    return {shard: [d.document for d in documents] for shard, documents in shards.items()}


def plan(documents, known=None, max_documents=2, max_bytes=10**9):
    return archive.plan_shards(documents, known or {}, max_documents, max_bytes)


def test_a_first_plan():
    shards = plan([document(name) for name in "ecadb"])
    assert shard_names(shards) == {"00000": ["a", "b"], "00001": ["c", "d"], "00002": ["e"]}
    assert plan([]) == {}


def test_documents_keep_their_shard_for_life():
    first = plan([document(name) for name in "bdfhj"])
    changed = [document(name, size=7) for name in "bdfhj"]
    second = plan([*changed, *map(document, "aceg")], first)
    assert shard_names(second) == {
        "00000": ["b", "d"],
        "00001": ["f", "h"],
        "00002": ["a", "j"],
        "00003": ["c", "e"],
        "00004": ["g"],
    }
    assert second["00000"] == [document("b", size=7), document("d", size=7)]
    # Smaller shards from now on, or larger ones: nobody moves.
    assert plan([*changed, *map(document, "aceg")], second, max_documents=1) == second
    assert plan([*changed, *map(document, "aceg")], second, max_documents=99) == second


def test_emptied_shards_stay_and_are_filled():
    known = plan([document(name) for name in "abcdef"])
    shards = plan([document(name) for name in "abef"], known)
    assert shard_names(shards) == {"00000": ["a", "b"], "00001": [], "00002": ["e", "f"]}
    shards = plan([document(name) for name in "abefxyz"], shards)
    assert shard_names(shards) == {
        "00000": ["a", "b"],
        "00001": ["x", "y"],
        "00002": ["e", "f"],
        "00003": ["z"],
    }
    assert shard_names(plan([], shards)) == {shard: [] for shard in shards}


def test_a_shard_of_a_lost_manifest_is_there_without_documents():
    known = plan([document(name) for name in "abcdef"])
    del known["00001"]
    shards = plan([document(name) for name in "abcdef"], known)
    assert shard_names(shards) == {"00000": ["a", "b"], "00001": ["c", "d"], "00002": ["e", "f"]}
    shards = plan([document(name) for name in "abef"], known)
    assert shard_names(shards)["00001"] == []


def test_shards_by_bytes():
    sizes = {"a": 4, "b": 4, "c": 4, "d": 50, "e": 4, "f": 4}
    documents = [document(name, size=size) for name, size in sizes.items()]
    shards = plan(documents, max_documents=10, max_bytes=10)
    assert shard_names(shards) == {
        "00000": ["a", "b"],
        "00001": ["c", "e"],
        "00002": ["d"],
        "00003": ["f"],
    }
    # A shard of one large document is full; that of the last small one is not.
    shards = plan([*documents, document("g", size=6)], shards, max_documents=10, max_bytes=10)
    assert shard_names(shards)["00003"] == ["f", "g"]
    large = [document(name, size=11) for name in "abc"]
    assert len(plan(large, max_documents=10, max_bytes=10)) == 3
    assert len(plan(large[:2], {"00000": []}, max_documents=10, max_bytes=10)) == 2


@pytest.mark.parametrize(
    ("count", "largest"), [(1, 1), (16, 16), (17, 16), (6400, 100), (6401, 101), (140_000, 2048)]
)
def test_automatic_size_of_shards(count, largest):
    shards = plan([document(f"{n:06d}") for n in range(count)], max_documents="auto")
    assert max(map(len, shards.values())) == largest
    assert sum(map(len, shards.values())) == count
    assert all(re.fullmatch("[0-9]{5}", shard) for shard in shards)


def test_too_many_shards():
    with pytest.raises(UserError, match=r"100001 shards are too many.*shards\.max_documents"):
        plan([document(f"{n:06d}") for n in range(100_001)], max_documents=1)


def test_no_history_loses_or_moves_a_document():
    """Random archives over many runs: each document in one shard, for as long as it is there."""
    rng = random.Random(3)
    known, home = {}, {}
    for _ in range(60):
        names = {n for n in range(200) if rng.random() < rng.choice((0.1, 0.5, 0.9))}
        documents = [document(f"d{n}", size=rng.choice((0, 1, 5, 40))) for n in names]
        shards = plan(documents, known, max_documents=rng.choice((1, 3, "auto")), max_bytes=30)
        place = {d.document: shard for shard, rows in shards.items() for d in rows}
        assert sorted(d for rows in shards.values() for d in rows) == sorted(documents)
        assert all(home[name] == shard for name, shard in place.items() if name in home)
        assert list(shards) == [f"{n:05d}" for n in range(len(shards))]
        assert set(known) <= set(shards)
        assert plan(documents, shards, max_documents=3, max_bytes=30) == shards
        known, home = shards, place


def test_manifests_are_only_written_if_they_change(tmp_path):
    path = tmp_path / "shards/00000.tsv"
    documents = [
        document("b", pages="1-2", listing="0123456789abcdef", columns='{"x":"\\t"}'),
        document("a \u00e9", size=2**40),
    ]
    assert archive.write_manifest(path, documents)
    assert archive.read_manifest(path) == sorted(documents)
    os.utime(path, ns=(1, 1))
    assert not archive.write_manifest(path, reversed(documents))
    assert path.stat().st_mtime_ns == 1
    assert archive.write_manifest(path, documents[:1])
    assert archive.read_manifest(path) == documents[:1]
    assert archive.write_manifest(path, [])
    assert archive.read_manifest(path) == []
    assert path.read_text() == "document\tkind\tpath\tsize\tmtime_ns\tpages\tlisting\tcolumns\n"
    assert [item.name for item in path.parent.iterdir()] == ["00000.tsv"]


def test_damaged_manifests(tmp_path):
    path = tmp_path / "00000.tsv"
    archive.write_manifest(path, [document("a"), document("b")])
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:-1],
        whole[:-5],
        whole.replace(b"kind\t", b""),
        whole.replace(b"a\tpdf", b"a"),
        whole.replace(b"\t1\t1", b"\tone\t1"),
        whole + b"c\tpdf\tc\t1\t1\n",
        b"\xff" + whole,
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"00000\.tsv.*Delete it"):
            archive.read_manifest(path)


def test_missing_documents():
    names = [f"{folder}/{n}.pdf" for folder in ("x/y", "x/z", "w") for n in range(100)]
    known = plan(list(map(document, names)), max_documents=64)
    left = [document(name) for name in names if not name.startswith("x/")]
    with pytest.raises(UserError) as error:
        archive.check_missing(known, left, 0.02, {})
    message = str(error.value)
    assert "200 of 300 known documents are gone:\n  x: 200 of 200\n" in message
    assert "--config 'archive={max_missing: 1}'" in message
    archive.check_missing(known, left, 0.67, {})
    archive.check_missing(known, left, 1, {})
    archive.check_missing(known, [], 1, {})
    some = list(map(document, names[11:]))
    with pytest.raises(UserError, match="11 of 300 known documents are gone:\n  x/y: 11 of 100\n"):
        archive.check_missing(known, some, 0.02, {})
    archive.check_missing(known, list(map(document, names[10:])), 0.0, {})
    archive.check_missing(known, list(map(document, names)), 0.0, {})
    archive.check_missing({}, list(map(document, names)), 0.0, {})


def test_links_to_an_unmounted_disk_are_missing():
    known = plan([document(f"{n}.pdf") for n in range(20)])
    now = [document(f"{n}.pdf", kind="missing") for n in range(20)]
    with pytest.raises(UserError, match=r"20 of 20 known documents are gone:\n  \.: 20 of 20\n"):
        archive.check_missing(known, now, 0.02, {})
    # Once accepted they are known as missing, and their absence is no news.
    archive.check_missing(plan(now), [], 0.0, {})


def test_only_some_folders_are_named():
    known = plan([document(f"{n}/{m}") for n in range(20) for m in range(n + 1)])
    with pytest.raises(UserError) as error:
        archive.check_missing(known, [document("19/0")], 0.02, {})
    assert "\n  18: 19 of 19\n  19: 19 of 20\n" in str(error.value)
    assert "and 15 folders more" in str(error.value)
    unreadable = {f"d{n:02d}": "Input/output error" for n in range(20)}
    with pytest.raises(UserError, match="20 folders or files cannot be read:") as error:
        archive.check_missing({}, [], 1, unreadable)
    assert "  d04: Input/output error\n  and 15 others more\n" in str(error.value)


def test_digest_of_a_listing():
    fields = Document._fields
    base = Document("a", "pdf", "a", 1, 1, "1", "x", "{}")
    digests = {
        archive.listing_digest(archive.Listing([row], Counter(), {}))
        for row in (
            base,
            *(
                base._replace(**{name: 2 if name in ("size", "mtime_ns") else "z"})
                for name in fields
            ),
        )
    }
    assert len(digests) == len(fields) + 1
    skipped = archive.Listing([base], Counter({".txt": 3}), {})
    assert archive.listing_digest(skipped) in digests


def test_a_large_archive_is_listed_fast(tmp_path):
    """10^4 files in 10^2 folders; the bound is ten times what it takes, for busy machines."""
    for number in range(100):
        (tmp_path / f"{number:03d}").mkdir()
        for page in range(100):
            (tmp_path / f"{number:03d}/{page:03d}.pdf").touch()
    start = time.process_time()
    assert len(listed(tmp_path)) == 10_000
    assert time.process_time() - start < 2
