"""Text of the regions of finished runs, as the stage `ocr` writes it."""

from pathlib import Path

from scanmill.tables import from_rows, read_table, write_table


def add_text(directory: Path, texts=None, source="ocr") -> None:
    """Write results/ocr: each region says which it is, or what `texts` has of its key (None: failed)."""
    for path in (directory / "results" / "regions").glob("*.parquet"):
        rows = [_row(region, texts or {}, source) for region in read_table(path).to_pylist()]
        write_table(from_rows("ocr", rows), directory / "results" / "ocr" / path.name)


def _row(region, texts, source):
    key = region["document"], region["page"], region["detection"]
    text = texts.get(key, "region {1}.{2} of {0}\nläßt 漢字".format(*key))
    row = dict(zip(("document", "page", "detection"), key, strict=True))
    row |= {"class_name": region["class_name"], "engine": "e"}
    if text is None:
        failure = {"status": "failed", "reason": "timeout", "message": "more than a second"}
        return row | failure | {"text": "", "lines": []}
    return row | {
        "status": "ok",
        "text": text,
        "confidence": 0.75,
        "source": source,
        "lines": _lines(region, text),
    }


def _lines(region, text):
    """The lines of a text, one below the other in their region."""
    lines = text.split("\n") if text else []
    height = (region["y_max"] - region["y_min"]) / max(len(lines), 1)
    return [
        {"text": line, "confidence": 0.5, "x_min": region["x_min"], "x_max": region["x_max"]}
        | {"y_min": region["y_min"] + place * height}
        | {"y_max": region["y_min"] + (place + 1) * height}
        for place, line in enumerate(lines)
    ]
