"""Articles are read out of HTML as they are built; made-up ones have the blocks that are asked for."""

import struct
from collections import Counter

import numpy as np
import pytest
import typeset

from scanmill.manuscripts import (
    Article,
    Author,
    Block,
    gather_articles,
    gather_phrases,
    read_article,
    read_articles,
    script_of,
    write_articles,
)


@pytest.fixture
def author():
    return Author("Latn", typeset.PROSE, ["Of mills", "3.1 Of ships"], np.random.default_rng(0))


def test_an_article_has_its_blocks_in_order_and_no_navigation(tmp_path):
    path = typeset.write_texts(tmp_path, 1) / "package0" / "index.html"
    [article] = read_article(path)
    assert article.script == "Latn"
    kinds = [block.kind for block in article.blocks]
    assert kinds == [
        "heading",
        *["paragraph"] * 40,
        "heading",
        "list",
        "table",
        "figure",
        "paragraph",
        "code",
    ]
    heading, items, table, figure = (article.blocks[i] for i in (0, 42, 43, 44))
    assert (heading.text, heading.level) == ("A short history of the town", 1)
    assert items.items == ("rye", ("barley", ("for bread", "for beer")), "salt")
    assert table.rows == (("Year", "Rye"), ("1710", "3.5"), ("1711", "4.1"))
    assert table.text == "Prices of a sack"
    assert figure.picture.endswith("package0/map.png")
    assert figure.text == "The town and its mills."
    assert not any("icon" in block.picture for block in article.blocks)


def test_a_note_that_is_set_as_a_table_is_text(tmp_path):
    """DocBook sets an icon and a word side by side, and the note below them."""
    path = typeset.write_texts(tmp_path, 1) / "package0" / "index.html"
    note = (
        '<table summary="Note"><tr><td rowspan="2"><img src="icon.png"></td><th>Note</th></tr>'
        "<tr><td><p>The mill was sold before it was built.</p></td></tr></table>"
    )
    path.write_text(path.read_text().replace("<table", f"{note}<table", 1))
    [article] = read_article(path)
    assert [block.kind for block in article.blocks].count("table") == 1
    before = next(i for i, block in enumerate(article.blocks) if block.kind == "table") - 1
    assert article.blocks[before] == Block("paragraph", "The mill was sold before it was built.")


def test_files_without_text_have_no_article(tmp_path):
    for name, data in (
        ("empty.html", b""),
        ("short.html", b"<html><body><p>Too little to set.</p></body></html>"),
        ("binary.html", bytes(range(256)) * 20),
    ):
        (tmp_path / name).write_bytes(data)
        assert list(read_article(tmp_path / name)) == []


def test_one_package_does_not_outweigh_others(tmp_path):
    typeset.write_texts(tmp_path, 2)
    text = (tmp_path / "package0" / "index.html").read_text()
    for number in range(5):
        (tmp_path / "package0" / f"more{number}.html").write_text(text)
    assert len(list(gather_articles([tmp_path]))) == 7
    assert len(list(gather_articles([tmp_path], most=2))) == 3


def test_articles_are_read_as_they_were_written(tmp_path):
    articles = list(gather_articles([typeset.write_texts(tmp_path / "texts", 2)]))
    articles.append(Article("Hans", (Block("paragraph", "他们说：“好。”"),)))
    counts = write_articles(articles, tmp_path / "articles.jsonl")
    assert counts == Counter(Latn=2, Hans=1)
    read = read_articles(tmp_path / "articles.jsonl")
    assert [each.script for each in read] == ["Latn", "Latn", "Hans"]
    assert [[b.kind for b in each.blocks] for each in read] == [
        [b.kind for b in each.blocks] for each in articles
    ]
    assert read[2].blocks[0].text == "他们说：“好。”"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Plain English, with 1 234 numbers.", "Latn"),
        ("Это русский текст, one word.", "Cyrl"),
        ("これは日本語の文章です。漢字もあります。", "Jpan"),
        ("这是中文的句子，没有假名。", "Hans"),
        ("이것은 한국어 문장입니다.", "Kore"),
        ("هذا نص عربي.", "Arab"),
        ("यह हिन्दी है।", "Deva"),
        ("12 345 — 67", None),
    ],
)
def test_scripts_are_told_by_their_letters(text, script):
    assert script_of(text) == script


def write_catalogue(path, messages):
    """gettext's .mo file of (original, translation)."""
    entries = sorted((a.encode(), b.encode()) for a, b in messages)
    offset = 28 + 16 * len(entries)
    tables, data = [b"", b""], b""
    for place in (0, 1):
        for entry in entries:
            tables[place] += struct.pack("<II", len(entry[place]), offset + len(data))
            data += entry[place] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(head + tables[0] + tables[1] + data)


def test_phrases_come_from_translations_without_marks_of_programs(tmp_path):
    thai = "ไฟล์นี้เปิดไม่ได้เพราะไม่มีสิทธิ์อ่านในโฟลเดอร์"
    messages = [
        ("", "Content-Type: text/plain; charset=UTF-8\n"),
        ("a", f"{thai} %s"),
        ("b", "สั้น"),
        ("c", "An English sentence that is long enough to be taken."),
    ]
    write_catalogue(tmp_path / "th/LC_MESSAGES/program.mo", messages)
    (tmp_path / "th/LC_MESSAGES/broken.mo").write_bytes(b"no catalogue")
    assert gather_phrases([tmp_path]) == {"Thai": [thai]}


def test_prose_is_about_as_long_as_asked(author):
    lengths = [len(author.prose(300)) for _ in range(50)]
    assert min(lengths) > 200
    assert max(lengths) < 400
    chinese = Author("Hans", ["这是一个句子，讲一座城市。"], [], np.random.default_rng(0))
    assert len(chinese.prose(300)) < 150


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("Hans", "\u3000\u3000 这是一个句子，讲一座城市。"),
        ("Hans", "。。。 。。"),
        ("Latn", "() (…) ()"),
    ],
)
def test_phrases_and_names_are_some(script, sentence):
    author = Author(script, [sentence], [], np.random.default_rng(0))
    for _ in range(50):
        assert author.words(1, 4).strip()
        assert author.name().split()
        assert author.reference()


def test_made_up_tables_are_rectangles(author):
    for _ in range(200):
        rows = author.table().rows
        assert len(rows) >= 4
        assert {len(row) for row in rows} == {len(rows[0])}


def test_articles_have_the_kinds_that_are_asked_for(author):
    weights = {
        "paragraph": 6,
        "heading": 2,
        "list": 1,
        "table": 1,
        "figure": 1,
        "formula": 1,
        "code": 1,
    }
    blocks = list(author.article(weights, 200_000))
    counts = Counter(block.kind for block in blocks)
    assert set(counts) == set(weights)
    assert counts["paragraph"] > counts["heading"] > counts["table"]
    assert sum(len(block.text) for block in blocks) > 100_000
    after = [blocks[i + 1].kind for i, each in enumerate(blocks[:-1]) if each.kind == "heading"]
    assert set(after) == {"paragraph"}
    assert not list(Author("Latn", typeset.PROSE, [], author.rng).article({"list": 1}, 0))


def test_equal_seeds_write_equal_articles():
    def write(seed):
        author = Author("Latn", typeset.PROSE, [], np.random.default_rng(seed))
        return list(author.article({"paragraph": 3, "table": 1, "list": 1}, 5000))

    assert write(3) == write(3)
    assert write(3) != write(4)
