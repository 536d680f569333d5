"""Records: when they hold, how they are written, what a killed job leaves; sources; locks."""

import ast
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scanmill import store as store_module
from scanmill.errors import UserError
from scanmill.store import (
    LIMITS_OF_REASON,
    STAGES,
    Busy,
    SourceError,
    StageStore,
    are_dropped,
    code_digest,
    document_folder,
    drop_images,
    file_digest,
    fingerprint,
    forget,
    lock,
    lock_directory,
    read_record_metadata,
    restore_images,
    source_changed,
    source_digest,
    stage_lock,
    syntax_digest,
    write_dataset,
)
from scanmill.tables import REASONS, SCHEMAS, from_rows, read_metadata, read_table, write_table

LIBRARY = Path(store_module.__file__).parent
NAME = "books/a.pdf"


def make_store(results, stage="regions", code="c0", **options):
    return StageStore(results, stage, {"min_score": 0.5}, code, **options)


#: Of each table, a column to tell one result from another by.
MARKED = {
    "images": "message",
    "detections": "class_name",
    "detected_pages": "message",
    "regions": "class_name",
    "pages": "message",
    "crop_images": "class_name",
    "ocr": "class_name",
}


def tables_of(stage, mark):
    """Tables of a stage, a row each, that tell `mark`."""
    rows = {name: [{"document": NAME, "page": 1, MARKED[name]: mark}] for name in MARKED}
    return {name: from_rows(name, rows[name]) for name in STAGES[stage].tables}


def write(store, wanted, mark, metadata=None):
    """Commit a result with two files (where the stage has any), all of which tell `mark`."""
    with store.replace(NAME, wanted) as draft:
        if STAGES[store.stage].folder:
            (draft.files / "0001").mkdir()
            (draft.files / "0001" / "a.txt").write_text(mark)
            (draft.files / f"{mark}.txt").write_text(mark * 3)
        draft.commit(tables_of(store.stage, mark), metadata)


def read_marks(store):
    """Every mark in a document's folder."""
    folder = store.folder(NAME)
    paths = [path for path in folder.rglob("*.txt") if ".tmp-" not in str(path)]
    marks = {path.read_text()[0] for path in paths}
    for name in STAGES[store.stage].tables:
        marks |= set(store.read(NAME, name)[MARKED[name]].to_pylist())
    return marks


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]


@pytest.fixture(params=sorted(STAGES))
def stage(request):
    return request.param


# Code digests -------------------------------------------------------------------------------------

#: Every construct of the language that the library might use.
CONSTRUCTS = r'''
from __future__ import annotations
import a.b as c, d
from . import x
from ..y import z as w
@deco(1, *args, k=2, **kw)
class A(B, metaclass=M):
    "doc"
    x: int = 1
    y: str
    async def f(self, a, /, b=1, *c, d, e=None, **g) -> None:
        """doc"""
        async with a as b, c: pass
        async for i in x: await i
        return [i async for i in x if i]
def g():
    global q
    h = lambda *a, k=1: (yield)
    try:
        pass
    except (A, B) as e: raise X from e
    except C: raise
    else: 1
    finally: ...
    while (n := f()) : break
    else: continue_ = 1
    for a, *b in c: del a[0], b.c
    with a(b) as (c, d): assert x, "y"
    return {**a, "b": 1, 'c': {1, 2, *d}, "e": {k: v for k, v in z}}
s = f"a{b!r:>{w}.{p}}c{d=}{{}}{e:%Y-%m-%d}" "tail" f'{x:}' f"{'nested'}" u"u"
t = f"""{
    a + 1
}""" f"" ""
u = f"{x!s}" f"{y:{z}}" f"\n{q}\t"
v = "\U0001FAE8 \xad é"; w = b"by\xff"; x = r"\d"
n = 1_000, 0x1f, 1e10, 1j, 1.5e-7, True, None, ..., -1, not a, ~b
c = a if b else d; e = a < b <= c is not d not in f; g = a and b or c
h = a[1:2, ::3, ...]; i = a @ b // c ** d % e << f >> g & h | i ^ j
j += 1; k: int; print(*a, **b)
match x:
    case {"a": [1, *rest], **kw} if y: pass
    case A(b=1) | None | -1 | "s": pass
    case _ as z: pass
'''
F_STRING = "def f(a=None):\n    return f'{a:>{a}}'"
FIXED = {
    "": "b5999633d806a4425694a2e389d4c42e99949638e4f3c7a2b793b0073e37c634",
    "x = 1": "1a624d607adfacfc33813df61252d67a997dd6f7547df13a08ee074ae08b95b3",
    F_STRING: "b70bd2fbd311fda2f75c1cf88e9a5d96b3d36e60351e156c1f3f390cab391e78",
    CONSTRUCTS: "a68b885380fc0f597756d424693a6e3861a5acd997a0ae9159023b0b20b00ee4",
}


@pytest.mark.parametrize(("source", "digest"), FIXED.items(), ids=["empty", "x", "f", "constructs"])
def test_syntax_digest_is_the_same_under_every_python(source, digest):
    """These were compared under Python 3.11 to 3.13; results are reused across releases."""
    assert syntax_digest(source) == digest


SOURCE = '''"""A module."""
import cv2

LIMIT = 0.5


class Page:
    """A page."""

    width: int = 3


def detect(image, floor=0.05):
    """Detect."""
    if image.width <= LIMIT:
        return "none", None
    return f"{floor:.2f}", image
'''
SAME = {
    "comment": SOURCE.replace("LIMIT = 0.5", "# Half.\nLIMIT = 0.5  # a half"),
    "docstrings": re.sub('"""[^"]+"""', '"""Other words."""', SOURCE),
    "no docstrings": re.sub('    """[^"]+"""\n', "", SOURCE).replace('"""A module."""', ""),
    "blank lines": SOURCE.replace("\n", "\n\n"),
    "quotes": SOURCE.replace('"none"', "'none'"),
    "number format": SOURCE.replace("0.05", "5e-2"),
    "brackets": SOURCE.replace(
        'return "none", None', 'return (\n        "none",\n        None,\n    )'
    ),
    "windows": SOURCE.replace("\n", "\r\n"),
}
DIFFERENT = {
    "constant": SOURCE.replace("LIMIT = 0.5", "LIMIT = 0.6"),
    "type of constant": SOURCE.replace("int = 3", "int = 3.0"),
    "string": SOURCE.replace('"none"', '"nine"'),
    "bytes": SOURCE.replace('"none"', 'b"none"'),
    "default": SOURCE.replace("floor=0.05", "floor=0.06"),
    "operator": SOURCE.replace("<=", "<"),
    "name": SOURCE.replace("image.width", "image.height"),
    "format": SOURCE.replace(":.2f", ":.3f"),
    "import": SOURCE.replace("import cv2", "import cv2 as cv"),
    "order": SOURCE.replace('"none", None', 'None, "none"'),
    "returns nothing": SOURCE.replace('return "none", None', "return"),
    "returns None": SOURCE.replace('return "none", None', "return None"),
    "statement": SOURCE.replace("import cv2", "import cv2\nimport numpy"),
    "string that is no docstring": SOURCE.replace("LIMIT = 0.5", 'LIMIT = 0.5\n"half"'),
    "annotation": SOURCE.replace("width: int", "width: float"),
    "decorator": SOURCE.replace("def detect", "@cache\ndef detect"),
}


@pytest.mark.parametrize("change", SAME)
def test_syntax_digest_does_not_see_words_and_places(change):
    assert SAME[change] != SOURCE
    assert syntax_digest(SAME[change]) == syntax_digest(SOURCE)


def test_syntax_digest_sees_what_the_code_does():
    for change, source in DIFFERENT.items():
        assert source != SOURCE, change
        ast.parse(source)
    digests = {syntax_digest(source) for source in (SOURCE, *DIFFERENT.values())}
    assert len(digests) == len(DIFFERENT) + 1


def test_stages_name_their_modules(stage):
    for module in STAGES[stage].modules:
        assert (LIBRARY / f"{module}.py").is_file()
    assert re.fullmatch("[0-9a-f]{16}", code_digest(stage))
    assert set(STAGES[stage].tables) <= set(SCHEMAS)


def test_code_digest_is_of_a_stages_modules_alone(tmp_path):
    package = tmp_path / "package"
    shutil.copytree(LIBRARY, package)

    def digests():
        return {stage: code_digest(stage, package) for stage in STAGES}

    before = digests()
    assert before == {stage: code_digest(stage) for stage in STAGES}
    regions = package / "regions.py"
    regions.write_text(regions.read_text() + "\n# A comment.\n")
    assert digests() == before
    regions.write_text(regions.read_text() + "\nLINES = 4\n")
    changed = [stage for stage, digest in digests().items() if digest != before[stage]]
    assert changed == ["regions"]


def test_code_digest_tells_which_module_holds_what(tmp_path):
    for module in STAGES["detections"].modules:
        (tmp_path / f"{module}.py").write_text("x = 1")
    (tmp_path / "detector.py").write_text("x = 2")
    one = code_digest("detections", tmp_path)
    (tmp_path / "detector.py").write_text("x = 1")
    (tmp_path / "preprocessing.py").write_text("x = 2")
    assert code_digest("detections", tmp_path) != one


# Fingerprints and states --------------------------------------------------------------------------


def test_fingerprint_is_of_settings_inputs_and_code():
    base = fingerprint({"dpi": 300, "renderer": "auto"}, ["a"], "c0")
    assert fingerprint({"renderer": "auto", "dpi": 300}, ["a"], "c0") == base
    assert fingerprint({"dpi": 301, "renderer": "auto"}, ["a"], "c0").data != base.data
    assert fingerprint({"dpi": 300, "renderer": "auto"}, ["b"], "c0").data != base.data
    other = fingerprint({"dpi": 300, "renderer": "auto"}, ["a"], "c1")
    assert other.data == base.data
    assert len({base.data, base.full, other.full}) == 3


def test_result_holds_while_its_fingerprint_does(tmp_path, stage):
    store = make_store(tmp_path, stage)
    wanted = store.fingerprint(["input"])
    assert store.state(NAME, wanted) == "stale"
    write(store, wanted, "a")
    assert store.state(NAME, wanted) == "done"
    assert store.state(NAME, store.fingerprint(["other input"])) == "stale"
    settings = StageStore(tmp_path, stage, {"min_score": 0.6}, "c0")
    assert settings.state(NAME, settings.fingerprint(["input"])) == "stale"
    for other in set(STAGES) - {stage}:
        other_store = make_store(tmp_path, other)
        assert other_store.state(NAME, other_store.fingerprint(["input"])) == "stale"


def test_results_of_other_code_are_kept_if_accepted(tmp_path, stage):
    store = make_store(tmp_path, stage)
    write(store, store.fingerprint(["input"]), "a")
    newer = make_store(tmp_path, stage, code="c1")
    assert newer.state(NAME, newer.fingerprint(["input"])) == "stale"
    accepting = make_store(tmp_path, stage, code="c1", accept_code=True)
    assert accepting.state(NAME, accepting.fingerprint(["input"])) == "done"
    assert accepting.state(NAME, accepting.fingerprint(["other input"])) == "stale"
    metadata = read_record_metadata(tmp_path, NAME, stage)
    assert metadata["code"] == "c0"
    assert metadata["scanmill_version"]


def test_raised_limit_owes_another_try(tmp_path):
    low = {"max_pixels": 100, "cpu_seconds": 10, "wall_seconds": 20, "memory_mb": 30}
    store = make_store(tmp_path, "images", limits=low)
    wanted = store.fingerprint([])
    noted = {"limits": json.dumps({"cpu_seconds": 10, "wall_seconds": 20})}
    write(store, wanted, "a", noted)

    def state(**limits):
        return make_store(tmp_path, "images", limits={**low, **limits}).state(NAME, wanted)

    assert state() == "done"
    assert state(cpu_seconds=11) == state(wall_seconds=21) == "retry"
    assert state(cpu_seconds=9, wall_seconds=1) == "done"
    assert state(max_pixels=1000, memory_mb=1000) == "done"
    limits = make_store(tmp_path, "images", limits={**low, "cpu_seconds": 99})
    assert limits.state(NAME, limits.fingerprint(["other"])) == "stale"
    assert set(LIMITS_OF_REASON) <= set(REASONS)
    assert {name for names in LIMITS_OF_REASON.values() for name in names} == set(low)


def test_limits_do_not_enter_the_fingerprint(tmp_path):
    one = make_store(tmp_path, "images", limits={"max_pixels": 1})
    two = make_store(tmp_path, "images", limits={"max_pixels": 2})
    assert one.fingerprint([]) == two.fingerprint([])


# Records ------------------------------------------------------------------------------------------


def test_record_names_all_that_belongs_to_it(tmp_path, stage):
    store = make_store(tmp_path, stage)
    write(store, store.fingerprint([]), "a", {"model": "scanmill-layout"})
    folder = document_folder(tmp_path, NAME)
    metadata = read_record_metadata(tmp_path, NAME, stage)
    assert metadata["model"] == "scanmill-layout"
    named = json.loads(metadata["files"])
    present = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name != f"{stage}.parquet"
    }
    assert named == present
    assert read_marks(store) == {"a"}
    assert not leftovers(tmp_path)


def test_missing_or_changed_file_makes_a_result_stale(tmp_path, stage):
    store = make_store(tmp_path, stage)
    wanted = store.fingerprint([])
    write(store, wanted, "a")
    folder = document_folder(tmp_path, NAME)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= len(STAGES[stage].tables)
    for path in files:
        content = path.read_bytes()
        for damage in (
            path.unlink,
            lambda path=path, content=content: path.write_bytes(content + b"x"),
            lambda path=path: path.write_bytes(b""),
        ):
            damage()
            assert store.state(NAME, wanted) == "stale", path
            assert read_record_metadata(tmp_path, NAME, stage) is None
            path.write_bytes(content)
            assert store.state(NAME, wanted) == "done"


def test_table_of_another_schema_makes_a_result_stale(tmp_path, stage):
    """As an older release wrote it, with a column more or less."""
    store = make_store(tmp_path, stage)
    wanted = store.fingerprint([])
    for name in STAGES[stage].tables:
        tables = tables_of(stage, "a")
        write(store, wanted, "a")
        path = store.folder(NAME) / store_module.table_file(stage, name)
        metadata = read_metadata(path)
        metadata.pop("schema_version")
        write_table(tables[name].drop_columns("page"), path, metadata)
        record = store.folder(NAME) / f"{stage}.parquet"
        metadata = read_metadata(record)
        metadata["files"] = json.dumps(
            {**json.loads(metadata["files"]), path.name: path.stat().st_size}
            if path != record
            else json.loads(metadata["files"])
        )
        write_table(read_table(record), record, metadata)
        assert store.state(NAME, wanted) == "stale", name


def test_damaged_record_makes_a_result_stale(tmp_path):
    store = make_store(tmp_path)
    wanted = store.fingerprint([])
    write(store, wanted, "a")
    record = store.folder(NAME) / "regions.parquet"
    whole = record.read_bytes()
    table = read_table(record)
    for damage in (b"", b"garbage", whole[:-20], whole[: len(whole) // 2]):
        record.write_bytes(damage)
        assert store.state(NAME, wanted) == "stale"
    for files in ("[1]", "{", '{"regions/x": "y"}', "null"):
        write_table(table, record, {"fingerprint": wanted.full, "files": files})
        assert store.state(NAME, wanted) == "stale"
    write_table(table, record, {"fingerprint": wanted.full})
    assert store.state(NAME, wanted) == "stale"


def test_new_result_replaces_all_of_the_old(tmp_path, stage):
    store = make_store(tmp_path, stage)
    write(store, store.fingerprint([1]), "a")
    write(store, store.fingerprint([2]), "b")
    assert read_marks(store) == {"b"}
    assert store.state(NAME, store.fingerprint([1])) == "stale"
    assert store.state(NAME, store.fingerprint([2])) == "done"
    assert not leftovers(tmp_path)


def test_result_without_files_removes_those_of_the_old(tmp_path):
    store = make_store(tmp_path, "crops")
    write(store, store.fingerprint([1]), "a")
    with store.replace(NAME, store.fingerprint([2])) as draft:
        draft.commit(tables_of("crops", "b"))
    assert not (store.folder(NAME) / "crops").exists()
    assert read_marks(store) == {"b"}


def test_stages_of_a_document_leave_each_other_alone(tmp_path):
    stores = [make_store(tmp_path, stage) for stage in STAGES]
    for store in stores:
        write(store, store.fingerprint([]), store.stage[0])
    for store in stores:
        write(store, store.fingerprint([2]), "z")
        assert store.state(NAME, store.fingerprint([2])) == "done"
    for store in stores:
        assert store.state(NAME, store.fingerprint([2])) == "done"


def test_rows_given_piece_by_piece(tmp_path):
    store = make_store(tmp_path, "crops")
    rows = [from_rows("crop_images", [{"page": page}] * 3) for page in range(4)]
    with store.replace(NAME, store.fingerprint([])) as draft:
        draft.commit({}, record_rows=iter(rows))
    assert store.read(NAME, "crop_images", ["page"])["page"].to_pylist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
    ]
    assert pq.ParquetFile(store.folder(NAME) / "crops.parquet").num_row_groups == 4


def test_error_keeps_the_old_result(tmp_path, stage):
    store = make_store(tmp_path, stage)
    wanted = store.fingerprint([1])
    write(store, wanted, "a")

    def fail():
        with store.replace(NAME, store.fingerprint([2])) as draft:
            (draft.files / "b.txt").write_text("b")
            raise OSError(28, "disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    with (
        pytest.raises(RuntimeError, match=f"{stage} of {NAME} was not committed"),
        store.replace(NAME, store.fingerprint([2])),
    ):
        pass
    assert store.state(NAME, wanted) == "done"
    assert read_marks(store) == {"a"}
    assert not leftovers(tmp_path)


class Killed(BaseException):
    """What ends the job: nothing may catch it, nothing is tidied."""


def die_at(monkeypatch, call):
    """Raise Killed in place of the `call`-th renaming or removal, and tidy nothing from then on."""
    calls = 0

    def counted(function):
        def wrapped(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls >= call:
                raise Killed
            return function(*arguments, **options)

        return wrapped

    for name in ("replace", "unlink", "mkdir", "rename"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(store_module.shutil, "rmtree", lambda *_, **__: None)


def test_job_killed_anywhere_leaves_the_old_result_or_none(tmp_path, stage, monkeypatch):
    before, after = 0, 0
    for call in range(1, 100):
        results = tmp_path / str(call)
        store = make_store(results, stage)
        old, new = store.fingerprint([1]), store.fingerprint([2])
        write(store, old, "a")
        with monkeypatch.context() as patched:
            die_at(patched, call)
            try:
                write(store, new, "b")
                survived = True
            except Killed:
                survived = False
        if survived:
            assert store.state(NAME, new) == "done"
            break
        states = store.state(NAME, old), store.state(NAME, new)
        if states == ("done", "stale"):
            before += 1
            assert read_marks(store) == {"a"}
        else:
            after += 1
            assert states == ("stale", "stale")
        write(store, new, "b")
        assert store.state(NAME, new) == "done"
        assert read_marks(store) == {"b"}
        assert not leftovers(results)
    assert survived
    assert before >= 3
    assert after >= 1


def test_leftovers_of_other_stages_stay(tmp_path):
    store = make_store(tmp_path, "images")
    other = document_folder(tmp_path, NAME) / ".tmp-crops-0a1b2c3d"
    mine = document_folder(tmp_path, NAME) / ".tmp-images-0a1b2c3d"
    for folder in (other, mine):
        (folder / "files").mkdir(parents=True)
    write(store, store.fingerprint([]), "a")
    assert other.exists()
    assert not mine.exists()


def test_forgotten_result_is_stale(tmp_path):
    store = make_store(tmp_path)
    write(store, store.fingerprint([]), "a")
    assert forget(tmp_path, NAME, "regions")
    assert store.state(NAME, store.fingerprint([])) == "stale"
    assert not forget(tmp_path, NAME, "regions")


# Dropped page images ------------------------------------------------------------------------------

IMAGES = ("0001.jpg", "0002.jpg")


def write_images(store, wanted, metadata=None):
    """Commit page images."""
    with store.replace(NAME, wanted) as draft:
        for name in IMAGES:
            (draft.files / name).write_text(name)
        draft.commit(tables_of("images", "a"), metadata)


def images_of(results):
    folder = document_folder(results, NAME) / "images"
    return {path.name for path in folder.glob("*.jpg")}


def rendered_again(folder):
    folder.mkdir()
    for name in IMAGES:
        (folder / name).write_text(name)
    return [folder / name for name in IMAGES]


def test_document_whose_images_were_dropped_is_done(tmp_path):
    store = make_store(tmp_path, "images")
    wanted = store.fingerprint([])
    write_images(store, wanted)
    record = (document_folder(tmp_path, NAME) / "images.parquet").read_bytes()
    for _ in range(2):
        drop_images(tmp_path, NAME)
        assert are_dropped(tmp_path, NAME)
        assert images_of(tmp_path) == set()
        assert store.state(NAME, wanted) == "done"
    assert store.state(NAME, store.fingerprint(["other input"])) == "stale"
    restore_images(tmp_path, NAME, rendered_again(tmp_path / "again"))
    assert not are_dropped(tmp_path, NAME)
    assert images_of(tmp_path) == set(IMAGES)
    assert store.state(NAME, wanted) == "done"
    assert (document_folder(tmp_path, NAME) / "images.parquet").read_bytes() == record
    # From now on one that is missing is missing.
    (document_folder(tmp_path, NAME) / "images" / IMAGES[0]).unlink()
    assert store.state(NAME, wanted) == "stale"


def test_dropping_images_excuses_no_other_fault(tmp_path):
    images, crops = make_store(tmp_path, "images"), make_store(tmp_path, "crops")
    write_images(images, images.fingerprint([]))
    write(crops, crops.fingerprint([]), "a")
    drop_images(tmp_path, NAME)
    (document_folder(tmp_path, NAME) / "crops" / "a.txt").unlink()
    assert crops.state(NAME, crops.fingerprint([])) == "stale"
    forget(tmp_path, NAME, "images")
    assert images.state(NAME, images.fingerprint([])) == "stale"


def test_document_without_images_has_none_to_drop(tmp_path):
    store = make_store(tmp_path, "images")
    with store.replace(NAME, store.fingerprint([])) as draft:
        draft.commit(tables_of("images", "a"))
    drop_images(tmp_path, NAME)
    assert not are_dropped(tmp_path, NAME)


def test_raised_limit_owes_all_pages_where_images_were_dropped(tmp_path):
    noted = {"limits": json.dumps({"cpu_seconds": 10})}
    store = make_store(tmp_path, "images", limits={"cpu_seconds": 11})
    wanted = store.fingerprint([])
    write_images(store, wanted, noted)
    assert store.state(NAME, wanted) == "retry"
    drop_images(tmp_path, NAME)
    assert store.state(NAME, wanted) == "stale"


def test_new_images_are_not_dropped(tmp_path):
    store = make_store(tmp_path, "images")
    write_images(store, store.fingerprint([1]))
    drop_images(tmp_path, NAME)
    write_images(store, store.fingerprint([2]))
    assert not are_dropped(tmp_path, NAME)
    assert images_of(tmp_path) == set(IMAGES)


@pytest.mark.parametrize("change", ["drop", "restore", "render"])
def test_job_killed_anywhere_claims_no_image_that_is_gone(tmp_path, change, monkeypatch):
    """A record that is done has its images, or they are dropped; and the next job ends the work."""
    killed = 0
    for call in range(1, 100):
        results = tmp_path / str(call)
        store = make_store(results, "images")
        wanted = store.fingerprint([1])
        write_images(store, wanted)
        if change != "drop":
            drop_images(results, NAME)
        again = rendered_again(tmp_path / f"again-{call}")
        work = {
            "drop": lambda results=results: drop_images(results, NAME),
            "restore": lambda results=results, again=again: restore_images(results, NAME, again),
            "render": lambda store=store: write_images(store, store.fingerprint([2])),
        }[change]
        with monkeypatch.context() as patched:
            die_at(patched, call)
            try:
                work()
                break
            except Killed:
                killed += 1
        states = {store.state(NAME, wanted), store.state(NAME, store.fingerprint([2]))}
        if "done" in states:
            assert are_dropped(results, NAME) or images_of(results) == set(IMAGES)
        elif change != "render":
            pytest.fail("the record was lost")
        if change == "restore":
            rest = rendered_again(tmp_path / f"rest-{call}")
            work = lambda results=results, rest=rest: restore_images(results, NAME, rest)  # noqa: E731
        work()
        assert are_dropped(results, NAME) == (change == "drop")
        assert images_of(results) == (set() if change == "drop" else set(IMAGES))
    assert killed >= 2


# Datasets -----------------------------------------------------------------------------------------


def pages_of(document, count):
    rows = [{"document": document, "page": page, "class_name": "text"} for page in range(count)]
    return from_rows("regions", rows)


def test_dataset_is_the_rows_of_its_documents(tmp_path):
    pieces = [pages_of("a", 3), pages_of("b", 0), pages_of("c", 2)]
    pieces[0] = pieces[0].replace_schema_metadata({"scanmill.fingerprint": "x"})
    output = tmp_path / "regions" / "00000.parquet"
    assert write_dataset("regions", iter(pieces), output, {"model": "scanmill-layout"}) == 5
    table = read_table(output)
    assert table["document"].to_pylist() == ["a"] * 3 + ["c"] * 2
    assert read_metadata(output) == {"model": "scanmill-layout", "schema_version": "1"}
    assert write_dataset("regions", [], tmp_path / "none.parquet") == 0
    assert read_table(tmp_path / "none.parquet").schema.remove_metadata().equals(SCHEMAS["regions"])


def test_dataset_does_not_tell_how_its_rows_came(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROWS_PER_GROUP", 50)
    table = pages_of("a", 120)
    chunked = table.take(list(range(120)))
    for name, pieces in {
        "whole": [table.slice(0, 40), table.slice(40, 40), table.slice(80)],
        "copies": [chunked.slice(0, 40), chunked.slice(40, 40), chunked.slice(80)],
    }.items():
        write_dataset("regions", pieces, tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "copies").read_bytes()
    assert pq.ParquetFile(tmp_path / "whole").num_row_groups == 2


# Sources ------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed."""
    files = []

    def count(path):
        files.append(os.fspath(path))
        return file_digest(path)

    monkeypatch.setattr(store_module, "file_digest", count)
    return files


def test_source_is_hashed_again_only_if_its_stamp_changed(tmp_path, hashed):
    source = tmp_path / "a.pdf"
    source.write_bytes(b"one")
    path = os.fsencode(source)
    one = hashlib.sha256(b"one").hexdigest()
    assert source_digest(tmp_path, NAME, (3, 1, ""), [path]) == one
    assert source_digest(tmp_path, NAME, (3, 1, ""), [path]) == one
    assert len(hashed) == 1
    # Touched: hashed, the same.
    assert source_digest(tmp_path, NAME, (3, 2, ""), [path]) == one
    assert len(hashed) == 2
    source.write_bytes(b"two")
    assert source_digest(tmp_path, NAME, (3, 2, ""), [path]) == one
    assert len(hashed) == 2
    two = hashlib.sha256(b"two").hexdigest()
    for changed in ((3, 3, ""), (4, 3, ""), (4, 3, "x")):
        assert source_digest(tmp_path, NAME, changed, [path]) == two
    assert len(hashed) == 5
    assert os.listdir(document_folder(tmp_path, NAME)) == ["source.json"]


def test_changed_source_is_told(tmp_path):
    source = tmp_path / "a.pdf"
    source.write_bytes(b"one")
    source_digest(tmp_path, NAME, (3, 1, ""), [source])
    os.utime(source, (0, 0))
    assert not source_changed(tmp_path, NAME, [source])
    source.write_bytes(b"two")
    assert source_changed(tmp_path, NAME, [source])


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"stamp"',
        b'{"stamp": [3, 1, ""]}',
        b"\xff\xfe",
        b'{"sha256": "a"}',
    ],
)
def test_damaged_note_on_a_source_is_written_again(tmp_path, hashed, note):
    source = tmp_path / "a.pdf"
    source.write_bytes(b"one")
    path = document_folder(tmp_path, NAME) / "source.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(note)
    for _ in range(2):
        digest = source_digest(tmp_path, NAME, (3, 1, ""), [source])
        assert digest == hashlib.sha256(b"one").hexdigest()
    assert len(hashed) == 1


def test_digest_of_a_folder_is_of_names_and_contents_in_order(tmp_path):
    def digest(*files):
        for file in files:
            path = tmp_path / "in" / file[0]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file[1])
        paths = [os.fsencode(tmp_path / "in" / name) for name, _ in files]
        return source_digest(tmp_path, NAME, [os.urandom(4).hex()], paths)

    a, b, c = ("1.jpg", b"a"), ("2.jpg", b"b"), ("3.jpg", b"b")
    digests = [
        digest(a, b),
        digest(b, a),
        digest(a, c),
        digest(a, b, c),
        digest(("1.jpg", b"z"), b),
    ]
    assert len(set(digests)) == 5
    assert digest(a, b) == digests[0]


def test_unreadable_source_is_told_apart_from_our_own_files(tmp_path):
    with pytest.raises(SourceError) as raised:
        source_digest(tmp_path, NAME, (1, 1, ""), [tmp_path / "gone.pdf"])
    assert isinstance(raised.value.cause, FileNotFoundError)
    source = tmp_path / "a.pdf"
    source.write_bytes(b"one")
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(OSError, match="store"):
        source_digest(tmp_path, NAME, (1, 1, ""), [source])


# Locks --------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from scanmill.store import lock
lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Have another process hold a lock file."""
    started = []

    def start(path):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, path],
            env={**os.environ, "PYTHONPATH": str(LIBRARY.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(holder)
        assert holder.stdout.readline() == b"held\n"
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.communicate()


def test_second_run_is_told_who_holds_the_folder(tmp_path, hold):
    holder = hold(tmp_path / ".scanmill.lock")
    with pytest.raises(UserError) as raised:
        lock_directory(tmp_path)
    message = str(raised.value)
    assert f"at work in {tmp_path} (process {holder.pid} on {socket.gethostname()}, 2" in message
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    # Nothing is left behind after a kill.
    descriptor = lock_directory(tmp_path)
    with pytest.raises(Busy, match=f"process {os.getpid()} on"):
        lock(tmp_path / ".scanmill.lock")
    os.close(descriptor)
    os.close(lock_directory(tmp_path))


def test_second_job_of_a_shard_waits_and_says_for_whom(tmp_path, hold):
    holder = hold(tmp_path / ".scanmill" / "images-00000.lock")
    said, entered = [], threading.Event()

    def job():
        with stage_lock(tmp_path, "images", "00000", said.append):
            entered.set()

    thread = threading.Thread(target=job)
    thread.start()
    deadline = time.monotonic() + 20
    while not said and time.monotonic() < deadline:
        time.sleep(0.02)
    assert re.fullmatch(
        rf"waiting: process {holder.pid} on \S+, [0-9: -]+ is at work on images of shard 00000; "
        "its results will be reused",
        said[0],
    )
    assert not entered.is_set()
    with (
        stage_lock(tmp_path, "images", "00001", said.append),
        stage_lock(tmp_path, "crops", "00000", said.append),
    ):
        pass
    holder.kill()
    thread.join(20)
    assert entered.is_set()
    assert len(said) == 1


def test_lock_ends_with_its_block_and_is_not_inherited(tmp_path):
    def refuse(holder):
        raise AssertionError(holder)

    with stage_lock(tmp_path, "images", "00000", refuse):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    with stage_lock(tmp_path, "images", "00000", refuse):
        pass
    child.kill()
    child.wait()
    with pytest.raises(ZeroDivisionError), stage_lock(tmp_path, "images", "00000", refuse):
        raise ZeroDivisionError
    with stage_lock(tmp_path, "images", "00000", refuse):
        pass
