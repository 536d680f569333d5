"""Archives: which documents there are, what they are called, and which shard each belongs to.

An archive is a folder of scans or a CSV of documents. A document's name is its path relative to the
archive, suffix included, encoded by `encode_name`; it is the same string in manifests, tables and
(through `store_path`) the store. All file names are handled as bytes, as the file system has them.
"""

import contextlib
import csv
import errno
import gc
import glob
import hashlib
import io
import json
import os
import re
import secrets
import stat
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from natsort import natsort_keygen, ns

from scanmill.errors import UserError

# Suffix (lower case) -> kind of file. A TIFF of one page counts as a page image.
SUFFIX_KINDS = {
    b".pdf": "pdf",
    b".tif": "tiff",
    b".tiff": "tiff",
    b".jpg": "image",
    b".jpeg": "image",
    b".png": "image",
    b".jp2": "image",
    b".jpf": "image",
    b".j2k": "image",
}

# Names that a document's folder in the store uses for its stages' folders and records; so does
# every name that begins with TEMPORARY_PREFIX.
RESERVED_NAMES = frozenset(
    {
        "images",
        "regions",
        "crops",
        "ocr",
        "images.parquet",
        "detections.parquet",
        "detected_pages.parquet",
        "regions.parquet",
        "pages.parquet",
        "crops.parquet",
        "ocr.parquet",
        "source.json",
    }
)
TEMPORARY_PREFIX = ".tmp-"

# Columns that documents.parquet has of its own, beside the three that a CSV shares with it.
DOCUMENT_COLUMNS = frozenset(
    {"bytes", "sha256", "pages_ok", "pages_failed", "regions", "status", "reason"}
)
CSV_COLUMNS = ("document", "path", "pages")

# Longest name of a file in bytes on Linux's and macOS's file systems (NAME_MAX).
NAME_BYTES = 255
# A longer component of a document's name keeps this many bytes, which leaves room for the digest.
KEPT_NAME_BYTES = 200

# More pages than any document has: a selection beyond it is a slip of the pen.
MAX_PAGE = 1_000_000
MAX_SHARDS = 100_000
# shards.max_documents: auto is a 64th of the archive within these bounds: enough jobs to fill a
# cluster, few enough that a model load does not matter.
AUTO_SHARDS = 64
AUTO_DOCUMENTS = (16, 2048)
# So few lost documents are taken for tidying up, whatever their share.
FEW_MISSING = 10
# Lines of examples in a message.
EXAMPLES = 5

HIDDEN = "names beginning with a dot"
NO_SUFFIX = "without suffix"
FOLDER_LINK = "links to a folder of the archive"
LOOP_LINK = "links that lead in a circle"
DANGLING_LINK = "links to nothing"
CSV_SUBFOLDER = "folders inside a folder that the CSV names"
EXCLUDED = "left out by archive.include and archive.exclude"

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_PLAIN_NAME = re.compile(rb"[\x20-\x24\x26-\x7e]*")
_ENCODED_CHARACTERS = re.compile("[\x00-\x1f%\x7f-\x9f\u2028\u2029\udc80-\udcff]")
_PAGE_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")
_ARCHIVE_REMEDY = (
    "Name the folder of scans, or a CSV with the columns document and path, in archive.path."
)
_natural = natsort_keygen(alg=ns.IGNORECASE)


class Document(NamedTuple):
    """One document of the archive: a row of a shard's manifest, of strings safe in TSV.

    document: its name for ever (encoded). kind: `pdf`; `tiff` (of several pages); `images` (all
    page images of a folder); `image` (one page image); or what becomes a failed row without being
    opened: `outside` (a link out of the archive), `missing`, `unsupported`. path: encoded, relative
    to the archive's folder; from a CSV as written there, so relative to the CSV's folder or
    absolute. size: bytes; of a folder the sum over its page images. mtime_ns: nanoseconds; of a
    folder the latest of its page images. Both are 0 for what is never opened. pages: a selection
    like `1-5,8`, '' for all. listing: of a folder, a digest of names, sizes and times of its page
    images, else ''. columns: JSON object of the CSV's further columns as strings, in ASCII, '' if
    it has none.
    """

    document: str
    kind: str
    path: str
    size: int
    mtime_ns: int
    pages: str = ""
    listing: str = ""
    columns: str = ""


class Listing(NamedTuple):
    """What an archive holds.

    documents: sorted by name. skipped: suffix, or a phrase that says why -> number of entries.
    unreadable: encoded name of a folder or file that could not be looked at -> the system's reason.
    """

    documents: list[Document]
    skipped: Counter[str]
    unreadable: dict[str, str]


class _Contents(NamedTuple):
    """What one folder holds, not what lies in its folders; names are raw, in no order."""

    folders: list[tuple[bytes, bool]]  # name, whether it is a link
    pages: list[tuple[bytes, int, int]]  # name, size, mtime_ns of each page image
    files: list[tuple[bytes, str, int, int]]  # name, kind, size, mtime_ns of other documents
    skipped: Counter[str]
    unreadable: list[tuple[bytes, OSError]]


# Names


def encode_name(raw: bytes | str) -> str:
    """Return a file name or path as printable text, reversibly (`decode_name`).

    Bytes that are not UTF-8, control characters (C0, DEL, C1), line separators (U+2028, U+2029) and
    `%` become `%XX` per byte; everything else, `/` and Unicode normal forms included, stays.
    """
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    if _PLAIN_NAME.fullmatch(raw):
        return raw.decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    return _ENCODED_CHARACTERS.sub(lambda match: _percent(match[0]), text)


def decode_name(name: str) -> bytes:
    """Return the file name or path that `encode_name` made `name` from."""
    return unquote_to_bytes(name)


def _percent(text: str) -> str:
    """Return every byte of `text` as %XX."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def store_path(document: str) -> str:
    """Return the document's folder relative to the store; no two documents have the same.

    Nor does one document's folder lie where another has its stages' folders and records: such a
    component gets its first character percent-encoded, which `encode_name` does to no letter or
    dot. Raises ValueError for a name with an empty or `..` component, which no document has.
    """
    components = document.split("/")
    if "" in components or ".." in components:
        raise ValueError(f"not a document's name: {document!r}")
    return "/".join(_store_name(part, index > 0) for index, part in enumerate(components))


def _store_name(component: str, nested: bool) -> str:
    """Return the folder name of one component of a document's name, of at most 255 bytes."""
    reserved = component in RESERVED_NAMES or component.startswith(TEMPORARY_PREFIX)
    name = component
    if component == "." or (nested and reserved):
        name = _percent(component[0]) + component[1:]
    raw = name.encode()
    if len(raw) <= NAME_BYTES:
        return name
    # `%~` stands in no encoded name, so that no short name equals a shortened one.
    digest = hashlib.sha256(component.encode()).hexdigest()[:16]
    return f"{raw[:KEPT_NAME_BYTES].decode('utf-8', 'ignore')}%~{digest}"


def glob_regex(pattern: str) -> str:
    """Return the regular expression, for `fullmatch`, of a glob on document names.

    `*` and `?` stay within a folder, `**` spans folders, `[a-z]` and `[!a-z]` are one character.
    `**/x` is an x in any folder or none; `x/**` is all below x, and x itself, which is a document
    where it is a folder of page images.
    """
    regex = ""
    i = 0
    while i < len(pattern):
        closing = pattern.find("]", i + 2 + (pattern[i + 1 : i + 2] == "!"))
        if pattern.startswith("**/", i) and (i == 0 or pattern[i - 1] == "/"):
            regex, i = regex + "(?:.*/)?", i + 3
        elif pattern[i:] == "/**":
            regex, i = regex + "(?:/.*)?", i + 3
        elif pattern.startswith("**", i):
            regex, i = regex + ".*", i + 2
        elif pattern[i] == "*":
            regex, i = regex + "[^/]*", i + 1
        elif pattern[i] == "?":
            regex, i = regex + "[^/]", i + 1
        elif pattern[i] == "[" and closing > 0:
            regex, i = regex + _character_class(pattern[i + 1 : closing]), closing + 1
        else:
            regex, i = regex + re.escape(pattern[i]), i + 1
    return regex


def _character_class(content: str) -> str:
    """Return the regular expression of a glob's [content]: one character that is not `/`."""
    negation = "^" if content.startswith("!") else ""
    escaped = re.sub(r"([\\\[\]&~|^])", r"\\\1", content[len(negation) :])
    return f"(?!/)[{negation}{escaped}]"


def _matcher(patterns: Iterable[str], setting: str) -> Callable[[str], re.Match[str] | None]:
    """Return a function that tells whether a document's name matches any of the globs."""
    regexes = []
    for pattern in patterns:
        try:
            regexes.append(glob_regex(pattern))
            re.compile(regexes[-1])
        except re.error as error:
            raise UserError(
                f"{setting}: {pattern!r} is not a glob ({error}). Write [[] for a bracket, and "
                "ranges upwards: [a-z]."
            ) from error
    # `(?!)` matches nothing: an empty list selects nothing.
    return re.compile("|".join(regexes) or "(?!)").fullmatch


# Listing


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No search for reference cycles meanwhile.

    Of a million rows, which have none, it takes a third of the time to list them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@collector_paused()
def list_archive(path: Path, settings: Mapping) -> Listing:
    """List the documents of an archive, a folder or a CSV.

    settings: the `archive` block of the configuration. Nothing is opened but the headers of TIFFs.
    Raises UserError if the archive is missing, malformed or has no documents.
    """
    raw = os.path.abspath(os.fsencode(path))
    include = _matcher(settings["include"], "archive.include")
    exclude = _matcher(settings["exclude"], "archive.exclude")
    try:
        mode = os.stat(raw).st_mode
    except OSError as error:
        raise UserError(f"archive: {_shown(raw)}: {_reason(error)}. {_ARCHIVE_REMEDY}") from error
    if stat.S_ISDIR(mode):
        listing = _list_folder(raw, settings)
    elif stat.S_ISREG(mode) and raw.lower().endswith(b".csv"):
        listing = _list_csv(raw)
    else:
        raise UserError(f"archive: {_shown(raw)} is neither a folder nor a CSV. {_ARCHIVE_REMEDY}")
    documents = [
        document
        for document in sorted(listing.documents)
        if include(document.document) and not exclude(document.document)
    ]
    left_out = len(listing.documents) - len(documents)
    skipped = listing.skipped + Counter({EXCLUDED: left_out})
    unreadable = {name: why for name, why in listing.unreadable.items() if not exclude(name)}
    if not documents:
        raise UserError(
            f"archive: {_shown(raw)} has no documents (PDF, TIFF, JPEG, PNG, JPEG 2000). "
            f"Found: {describe_skipped(skipped)}.{_describe_unreadable(unreadable)}"
        )
    return Listing(documents, skipped, unreadable)


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return the counts of what is no document as a phrase, the most frequent first."""
    counts = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count} {name}" for name, count in counts[: 2 * EXAMPLES]]
    rest = sum(count for _, count in counts[2 * EXAMPLES :])
    return ", ".join(parts + [f"{rest} others"] * (rest > 0)) or "nothing else"


def page_files(folder: bytes, boundary: bytes | None) -> list[bytes]:
    """Return the names of a folder's page images, in natural order: page N is the Nth of them.

    boundary: as `link_boundary` gives it. Raises OSError if the folder or one of its page images
    cannot be looked at.
    """
    contents = _scan_folder(folder, boundary)
    for _, error in contents.unreadable:
        raise error
    return sorted((name for name, _, _ in contents.pages), key=_natural_key)


def link_boundary(archive: Path, settings: Mapping) -> bytes | None:
    """Return the real folder that links must not lead out of, None if they may lead anywhere.

    A CSV says itself what belongs to it, so links in the folders that it names may.
    """
    raw = os.path.abspath(os.fsencode(archive))
    return os.path.realpath(raw) if os.path.isdir(raw) and not settings["follow_links"] else None


def source_path(archive: Path, document: Document) -> bytes:
    """Return the absolute path of a document's file or folder."""
    raw = os.path.abspath(os.fsencode(archive))
    folder = raw if os.path.isdir(raw) else os.path.dirname(raw)
    return os.path.join(folder, decode_name(document.path))


def listing_digest(listing: Listing) -> str:
    """Return a digest of everything that planning depends on: what makes the plan run again.

    The unreadable is part of it, so that planning runs, stops and says so.
    """
    digest = hashlib.sha256()
    for document in listing.documents:
        digest.update(("\t".join(map(str, document)) + "\n").encode())
    for name, reason in sorted(listing.unreadable.items()):
        digest.update(f"unreadable\t{name}\t{reason}\n".encode())
    return digest.hexdigest()[:32]


def is_multipage_tiff(path: bytes) -> bool:
    """Tell whether a file is a TIFF of more than one page: whether its first IFD has a successor.

    Classic TIFF (TIFF 6.0, section 2) and BigTIFF, both byte orders. False for what cannot be read
    so, and for a successor that lies nowhere or is the first IFD again.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            first, following = _ifd_offsets(file.fileno())
            return following not in (0, first) and following < os.fstat(file.fileno()).st_size
    except (OSError, OverflowError, struct.error):
        return False


def _ifd_offsets(file: int) -> tuple[int, int]:
    """Return the offsets of the first and the second IFD of a TIFF, 0 for none.

    Raises struct.error where the file ends too soon, OverflowError for an offset beyond any file.
    """
    header = os.pread(file, 16, 0)
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    version = struct.unpack(f"{order}H", header[2:4])[0] if order else None
    if version == 42:
        position, pointer, counter, entry_bytes = 4, "I", "H", 12
    elif version == 43:
        position, pointer, counter, entry_bytes = 8, "Q", "Q", 20
    else:
        return 0, 0

    def number(code: str, position: int) -> int:
        size = struct.calcsize(code)
        return struct.unpack(f"{order}{code}", os.pread(file, size, position))[0]

    first = number(pointer, position)
    if first == 0:
        return 0, 0
    entries = number(counter, first)
    return first, number(pointer, first + struct.calcsize(counter) + entries * entry_bytes)


def _list_folder(root: bytes, settings: Mapping) -> Listing:
    """List all documents under `root`, unsorted; folders that are left out entirely are not read.

    Deep trees need no recursion. With links, a folder is entered unless it is one of those that
    the way to it leads through.
    """
    boundary = None if settings["follow_links"] else os.path.realpath(root)
    leave_out = _matcher(
        (pattern for pattern in settings["exclude"] if pattern.endswith("/**")), "archive.exclude"
    )
    listing = Listing([], Counter(), {})
    real_root = os.path.realpath(root)
    # path, encoded name ('' for the root), real path, real paths of all folders on the way to it
    stack = [(root, "", real_root, frozenset({real_root}))]
    while stack:
        path, name, real, chain = stack.pop()
        prefix = f"{name}/" if name else ""
        try:
            contents = _scan_folder(path, boundary)
        except OSError as error:
            listing.unreadable[name or "."] = _reason(error)
            continue
        listing.documents.extend(_folder_documents(contents, name, settings["image_folders"]))
        listing.skipped.update(contents.skipped)
        for raw, error in contents.unreadable:
            listing.unreadable[prefix + encode_name(raw)] = _reason(error)
        for raw, linked in contents.folders:
            inner_path, inner_name = os.path.join(path, raw), prefix + encode_name(raw)
            inner_real = os.path.realpath(inner_path) if linked else os.path.join(real, raw)
            if inner_real in chain:
                listing.skipped[LOOP_LINK] += 1
            elif leave_out(inner_name):
                listing.skipped[EXCLUDED] += 1
            else:
                stack.append((inner_path, inner_name, inner_real, chain | {inner_real}))
    return listing


def _folder_documents(contents: _Contents, name: str, image_folders: str) -> Iterator[Document]:
    """Yield the documents that lie in one folder of this encoded name ('' for the root)."""
    prefix = f"{name}/" if name else ""
    for raw, kind, size, mtime_ns in contents.files:
        path = prefix + encode_name(raw)
        yield Document(path, kind, path, size, mtime_ns)
    if image_folders == "pages":
        for raw, size, mtime_ns in contents.pages:
            path = prefix + encode_name(raw)
            yield Document(path, "image", path, size, mtime_ns)
    elif contents.pages:
        yield _image_folder(name or ".", name or ".", contents)


def _image_folder(document: str, path: str, contents: _Contents) -> Document:
    """Return the document that a folder's page images make together."""
    digest = hashlib.sha256()
    for raw, size, mtime_ns in sorted(contents.pages):
        digest.update(b"%s\0%d\0%d\0" % (raw, size, mtime_ns))
    return Document(
        document,
        "images",
        path,
        sum(size for _, size, _ in contents.pages),
        max((mtime_ns for _, _, mtime_ns in contents.pages), default=0),
        listing=digest.hexdigest()[:16],
    )


def _scan_folder(folder: bytes, boundary: bytes | None) -> _Contents:
    """Look at all entries of one folder; raises OSError if it cannot be read.

    boundary: the real folder that links must not lead out of, None if they may lead anywhere.
    """
    contents = _Contents([], [], [], Counter(), [])
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                contents.skipped[HIDDEN] += 1
            elif entry.is_symlink():
                _add_link(contents, entry, boundary)
            elif entry.is_dir(follow_symlinks=False):
                contents.folders.append((entry.name, False))
            else:
                _add_file(contents, entry)
    return contents


def _add_file(contents: _Contents, entry: os.DirEntry[bytes]) -> None:
    """Add an entry that is neither a folder nor a link."""
    suffix = _suffix(entry.name)
    if suffix not in SUFFIX_KINDS:
        contents.skipped[encode_name(suffix) or NO_SUFFIX] += 1
        return
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        contents.unreadable.append((entry.name, error))
        return
    _add_document(contents, entry, status)


def _add_link(contents: _Contents, entry: os.DirEntry[bytes], boundary: bytes | None) -> None:
    """Add a symbolic link: as what it leads to, or as a document that says why it is not opened."""
    known = _suffix(entry.name) in SUFFIX_KINDS
    outside = boundary is not None and not _is_inside(os.path.realpath(entry.path), boundary)
    try:
        status = os.stat(entry.path)
    except OSError as error:
        if error.errno in _NOT_THERE and known:
            contents.files.append((entry.name, "missing", 0, 0))
        elif error.errno in _NOT_THERE:
            contents.skipped[DANGLING_LINK] += 1
        elif outside:
            contents.files.append((entry.name, "outside", 0, 0))
        else:
            contents.unreadable.append((entry.name, error))
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    if outside and (is_folder or known):
        contents.files.append((entry.name, "outside", 0, 0))
    elif is_folder and boundary is None:
        contents.folders.append((entry.name, True))
    elif is_folder:
        # Its files are listed in their own place.
        contents.skipped[FOLDER_LINK] += 1
    elif known:
        _add_document(contents, entry, status)
    else:
        contents.skipped[encode_name(_suffix(entry.name)) or NO_SUFFIX] += 1


def _add_document(contents: _Contents, entry: os.DirEntry[bytes], status: os.stat_result) -> None:
    """Add a file with a document's suffix, to the page images or to the other documents."""
    kind = _file_kind(entry.path, status)
    if kind == "image":
        contents.pages.append((entry.name, status.st_size, status.st_mtime_ns))
    elif kind == "unsupported":
        contents.files.append((entry.name, kind, 0, 0))
    else:
        contents.files.append((entry.name, kind, status.st_size, status.st_mtime_ns))


def _file_kind(path: bytes, status: os.stat_result) -> str:
    """Return the kind of a document that is one file: pdf, tiff, image or unsupported."""
    kind = SUFFIX_KINDS.get(_suffix(path), "unsupported")
    if not stat.S_ISREG(status.st_mode):
        return "unsupported"  # a pipe or a device, which must not be opened
    if kind == "tiff" and not is_multipage_tiff(path):
        return "image"
    return kind


def _suffix(path: bytes) -> bytes:
    """Return the suffix of a file's path in lower case, with its dot, b'' if it has none.

    os.path.splitext() takes three times as long, for each of a million.
    """
    dot = path.rfind(b".")
    return path[dot:].lower() if dot > path.rfind(b"/") + 1 else b""


def _is_inside(path: bytes, folder: bytes) -> bool:
    """Tell whether a real path is a folder's or lies below it."""
    return path == folder or path.startswith(os.path.join(folder, b""))


def _natural_key(name: bytes) -> tuple:
    """Return the key that sorts file names as people do: 2 before 10, and 1 before 1a and 1-2.

    Names that only differ in case, leading zeros or normal form follow their bytes.
    """
    stem, suffix = os.path.splitext(name)
    return _natural(encode_name(stem)), _natural(encode_name(suffix)), name


def _reason(error: OSError) -> str:
    """Return the system's reason of an error, without the path."""
    return error.strerror or type(error).__name__


def _shown(path: bytes) -> str:
    """Return a path as text for a message."""
    return path.decode("utf-8", "backslashreplace")


# CSV


def parse_pages(text: str) -> list[int] | None:
    """Return the page numbers (from 1, ascending, each once) of a selection like `1-5,8`.

    None, for all pages, if the text is blank. Raises ValueError if it is not a selection.
    """
    if not text.strip():
        return None
    pages: set[int] = set()
    for part in text.split(","):
        match = _PAGE_RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if not 1 <= first <= last <= MAX_PAGE:
            raise ValueError(
                f"{part.strip()!r} is not a page or a range of pages from 1 to {MAX_PAGE}, "
                "like 8 or 1-5"
            )
        pages.update(range(first, last + 1))
    return sorted(pages)


def _list_csv(path: bytes) -> Listing:
    """List the documents that a CSV names, unsorted."""
    documents: dict[str, Document] = {}
    lines: dict[str, int] = {}
    for line, row in _read_csv(path):
        where = f"{_shown(path)}, line {line}"
        document = _csv_document(row, where)
        if document.document in documents:
            raise UserError(
                f"{where}: the document {row['document']!r} is already on line "
                f"{lines[document.document]}. Give every document a name of its own."
            )
        documents[document.document] = document
        lines[document.document] = line
    listing = Listing([], Counter(), {})
    for document in documents.values():
        _add_csv_document(listing, document, os.path.dirname(path), documents)
    return listing


def _add_csv_document(
    listing: Listing, document: Document, csv_folder: bytes, named: Mapping[str, Document]
) -> None:
    """Add a document of a CSV, after a look at its file or folder.

    A page image of a folder that cannot be opened is a failed document beside it, as it is in an
    archive folder, unless the CSV has `named` that path itself.
    """
    source = os.path.join(csv_folder, decode_name(document.path))
    try:
        status = os.stat(source)
        # The CSV says what belongs to the archive, so links may lead anywhere.
        contents = _scan_folder(source, None) if stat.S_ISDIR(status.st_mode) else None
    except OSError as error:
        if error.errno in _NOT_THERE:
            listing.documents.append(document._replace(kind="missing"))
        else:
            listing.unreadable[document.document] = _reason(error)
        return
    if contents is None:
        kind = _file_kind(source, status)
        if kind == "unsupported" and stat.S_ISREG(status.st_mode):
            kind = "pdf"  # Whatever its name: the CSV says that it is a document.
        size, mtime_ns = (0, 0) if kind == "unsupported" else (status.st_size, status.st_mtime_ns)
        listing.documents.append(document._replace(kind=kind, size=size, mtime_ns=mtime_ns))
        return
    folder = _image_folder(document.document, document.path, contents)
    listing.documents.append(folder._replace(pages=document.pages, columns=document.columns))
    listing.skipped.update(contents.skipped)
    if contents.folders:
        listing.skipped[CSV_SUBFOLDER] += len(contents.folders)
    for raw, error in contents.unreadable:
        listing.unreadable[f"{document.document}/{encode_name(raw)}"] = _reason(error)
    for raw, kind, _, _ in contents.files:
        name = f"{document.document}/{encode_name(raw)}"
        if kind in ("pdf", "tiff"):
            listing.skipped[encode_name(_suffix(raw))] += 1
        elif name not in named:
            path = f"{document.path.rstrip('/')}/{encode_name(raw)}"
            listing.documents.append(Document(name, kind, path, 0, 0, columns=document.columns))


def _csv_document(row: Mapping[str, str], where: str) -> Document:
    """Return what a row of a CSV says about its document; what its file says is still to come.

    Raises UserError, beginning with `where`, for a name, path or selection of pages that is none.
    """
    name, path, pages = row["document"], row["path"], row.get("pages", "")
    if not name.strip() or not path.strip():
        raise UserError(f"{where}: document and path must both be filled in.")
    if {"", ".", ".."} & set(name.split("/")):
        raise UserError(
            f"{where}: {name!r} cannot be a document's name: it must not begin or end with '/', "
            "nor hold '//', '.' or '..' as a folder."
        )
    if "\0" in path:
        raise UserError(f"{where}: the path {path!r} holds a NUL character. Remove it.")
    try:
        parse_pages(pages)
    except ValueError as error:
        raise UserError(f"{where}: pages: {error}. Leave it empty for all pages.") from error
    further = {name: value for name, value in row.items() if name not in CSV_COLUMNS}
    return Document(
        encode_name(name),
        "",
        encode_name(path),
        0,
        0,
        pages=re.sub(r"\s", "", pages),
        columns=json.dumps(further, separators=(",", ":")) if further else "",
    )


def _read_csv(path: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the fields of every row of a CSV in UTF-8; blank lines are none.

    Raises UserError with file and line for what is not UTF-8, not CSV, or of other columns than
    the header says.
    """
    try:
        content = Path(os.fsdecode(path)).read_bytes()
    except OSError as error:
        raise UserError(f"archive: {_shown(path)}: {_reason(error)}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{_shown(path)}, line {line}: not UTF-8. Save the table as CSV in UTF-8."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            where = f"{_shown(path)}, line {line}"
            if fields and not header:
                header = fields
                _check_header(header, where)
            elif fields and len(fields) != len(header):
                raise UserError(
                    f"{where}: {len(fields)} fields under {len(header)} columns. Put a field that "
                    "holds a comma in double quotes."
                )
            elif fields:
                yield line, dict(zip(header, fields, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{_shown(path)}, line {line}: not CSV ({error}). Put a field that holds a comma, a "
            "quote or a line break in double quotes, and double the quotes in it."
        ) from error
    if not header:
        raise UserError(f"{_shown(path)} is empty. It needs the columns document and path.")


def _check_header(header: Sequence[str], where: str) -> None:
    """Raise UserError, beginning with `where`, unless these can be the columns of a CSV archive.

    Names that differ only in case count as equal: SQL engines that read the tables see them so.
    """
    missing = [name for name in ("document", "path") if name not in header]
    if missing:
        found = ", ".join(repr(name) for name in header)
        raise UserError(
            f"{where}: there is no column {' and no column '.join(missing)}; found {found}. "
            "The first line must name the columns document and path, separated by commas."
        )
    if not all(name.strip() for name in header):
        raise UserError(f"{where}: a column has no name. Name it or remove it.")
    lower = Counter(name.lower() for name in header)
    taken = [name for name in header if name.lower() in DOCUMENT_COLUMNS]
    twice = [name for name in header if lower[name.lower()] > 1]
    if taken or twice:
        names = ", ".join(repr(name) for name in taken or twice)
        cause = "documents.parquet has its own" if taken else "the same name more than once"
        raise UserError(f"{where}: columns {names}: {cause}. Rename them in the CSV.")


# Shards


def plan_shards(
    documents: Iterable[Document],
    known: Mapping[str, Sequence[Document]],
    max_documents: int | str,
    max_bytes: int,
) -> dict[str, list[Document]]:
    """Return every shard's documents, sorted by shard and by name, as they are now.

    known: shard -> documents of the manifests on disk. A known document keeps its shard for life;
    new ones, in order of name, fill the last shard that is not full, then open new ones. A document
    beyond max_bytes has a shard of its own. Shards without documents stay, so that their tables
    become tables of no rows; a shard whose manifest was lost is one of them.
    max_documents: per shard, or `auto`. Raises UserError if there would be too many shards.
    """
    new = {document.document: document for document in documents}
    if max_documents == "auto":
        low, high = AUTO_DOCUMENTS
        max_documents = min(max(-(-len(new) // AUTO_SHARDS), low), high)
    shards: list[list[Document]] = [[] for _ in range(1 + max(map(int, known), default=-1))]
    for shard in sorted(known):
        names = (document.document for document in known[shard])
        shards[int(shard)] = [new.pop(name) for name in names if name in new]

    sizes = [sum(document.size for document in shard) for shard in shards]
    not_full = [
        index
        for index, shard in enumerate(shards)
        if len(shard) < max_documents and sizes[index] < max_bytes
    ]
    current = not_full[-1] if not_full else None
    for document in sorted(new.values()):
        fits = current is not None and (
            not shards[current]
            or (
                len(shards[current]) < max_documents and sizes[current] + document.size <= max_bytes
            )
        )
        if not fits:
            shards.append([])
            sizes.append(0)
        index = current if fits else len(shards) - 1
        shards[index].append(document)
        sizes[index] += document.size
        # After a document with a shard of its own, the smaller ones go on where they were.
        if document.size <= max_bytes or current is None:
            current = index
    if len(shards) > MAX_SHARDS:
        raise UserError(
            f"shards: {len(shards)} shards are too many for one run. Raise shards.max_documents "
            f"(now {max_documents}) and shards.max_bytes (now {max_bytes})."
        )
    return {f"{index:05d}": sorted(shard) for index, shard in enumerate(shards)}


def read_manifest(path: Path) -> list[Document]:
    """Return the documents of a shard's manifest; raises UserError if it is damaged."""
    remedy = "Delete it and run again: its documents are planned anew and their results reused."
    try:
        header, *lines, end = path.read_bytes().decode().split("\n")
    except ValueError as error:
        raise UserError(f"{path} is damaged or empty. {remedy}") from error
    if header != "\t".join(Document._fields) or end:
        raise UserError(f"{path} is not a whole manifest of this version. {remedy}")
    documents = []
    for number, line in enumerate(lines, start=2):
        try:
            name, kind, source, size, mtime_ns, pages, listing, columns = line.split("\t")
            row = (name, kind, source, int(size), int(mtime_ns), pages, listing, columns)
            documents.append(Document(*row))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged. {remedy}") from error
    return documents


def write_manifest(path: Path, documents: Iterable[Document]) -> bool:
    """Write a shard's manifest, sorted by document; return whether it has changed.

    One with the same content is left untouched, its modification time with it: it is the input of
    the shard's jobs. Written under another name and moved into place, so that it is always whole.
    """
    rows = [Document._fields, *sorted(documents)]
    content = "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()
    if path.exists() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def check_missing(
    known: Mapping[str, Sequence[Document]],
    documents: Iterable[Document],
    max_missing: float,
    unreadable: Mapping[str, str],
) -> None:
    """Raise UserError if the archive cannot be read in full or has lost many known documents.

    Many are more than `max_missing` (a share) and more than FEW_MISSING. A document that was there
    and is now `missing` (a link or a row of a CSV that leads to nothing) is lost as well: an
    unmounted disk must not empty the tables. known: shard -> documents of the manifests on disk.
    """
    if unreadable:
        raise UserError(f"archive:{_describe_unreadable(unreadable)}")
    there = {document.document for document in documents if document.kind != "missing"}
    before = [
        document.document
        for shard in known.values()
        for document in shard
        if document.kind != "missing"
    ]
    lost = [name for name in before if name not in there]
    if len(lost) <= FEW_MISSING or len(lost) <= max_missing * len(before):
        return
    raise UserError(
        f"archive: {len(lost)} of {len(before)} known documents are gone:\n"
        f"{_describe_lost(before, lost)}\n"
        "Is a disk not mounted, or has archive.path, include, exclude or image_folders changed? If "
        "they are meant to be gone, accept it for one run with\n"
        "  --config 'archive={max_missing: 1}'\n"
        "(together with `path: ...` inside the braces if you name the archive there, too)."
    )


def _describe_lost(before: Iterable[str], lost: Iterable[str]) -> str:
    """Return lines with the folders that have lost the most documents.

    A document counts for the topmost folder of which nothing is left, otherwise for its own.
    """
    total = Counter(folder for name in before for folder in _folders(name))
    gone = Counter(folder for name in lost for folder in _folders(name))
    places = Counter(
        next((folder for folder in _folders(name) if gone[folder] == total[folder]), None)
        or os.path.dirname(name)
        or "."
        for name in lost
    )
    lines = [
        f"  {folder}: {count} of {total[folder]}"
        for folder, count in sorted(places.items(), key=lambda item: (-item[1], item[0]))
    ]
    return _some_lines(lines, "folders")


def _folders(name: str) -> list[str]:
    """Return all folders that a document lies in, topmost first, beginning with `.`."""
    parts = name.split("/")[:-1]
    return [".", *("/".join(parts[: index + 1]) for index in range(len(parts)))]


def _describe_unreadable(unreadable: Mapping[str, str]) -> str:
    """Return what cannot be read and what to do about it, to follow a sentence; '' for nothing."""
    if not unreadable:
        return ""
    lines = [f"  {name}: {reason}" for name, reason in sorted(unreadable.items())]
    pattern = f"{glob.escape(min(unreadable))}/**"
    return (
        f" {len(lines)} folders or files cannot be read:\n{_some_lines(lines, 'others')}\n"
        "Make them readable, or leave them out, like the first of them by\n"
        f"  archive.exclude: [{json.dumps(pattern, ensure_ascii=False)}]"
    )


def _some_lines(lines: Sequence[str], what: str) -> str:
    """Return the first lines and the number of the others."""
    rest = len(lines) - EXAMPLES
    return "\n".join([*lines[:EXAMPLES], *([f"  and {rest} {what} more"] if rest > 0 else [])])
