"""What the results are, in words: datasets and their columns, for whoever finds them without Scanmill.

A column means the same in every table. config/README.md says more.
"""

from __future__ import annotations

#: Folders of results/ that hold one Parquet file per shard, in the order in which they are made.
DATASETS = {
    "images": "One row per page image: its file, size, resolution, and way back to the PDF",
    "detections": "One row per detection above the score floor, before any threshold",
    "detected_pages": "One row per page that has an image: how its detection went",
    "regions": "One row per region: class, box, outline, score, place in the reading order",
    "pages": "The final word on every page, whatever became of it",
    "crops": "One row per region that was cut out of its page",
    "ocr": "One row per region whose text was read",
}
#: Single tables of results/.
TABLES = {
    "documents": "One row per document of the archive",
    "failures": "One row per page, crop, or whole document that failed, with the reason",
}
COLUMNS = {
    "document": "name of the document: its path in the archive, or as the archive's CSV names it",
    "page": "page of the document, from 1; null where the document did not open",
    "status": "ok, or failed; of a document also partial",
    "stage": "stage at which the page failed",
    "reason": "why it failed: one of a closed list",
    "message": "details of a failure, or of how a page came out",
    "image": "path of the page image, relative to this folder",
    "width": "width of the image in pixels",
    "height": "height of the image in pixels",
    "dpi_x": "horizontal resolution of the page image in dots per inch",
    "dpi_y": "vertical resolution of the page image in dots per inch",
    "source": "of a page image: lifted, rendered or file; of a text: ocr or pdf",
    "engine": "what made the page image, or read the text",
    "rotation": "degrees by which the PDF's /Rotate turned the page, clockwise",
    "page_width_pt": "width of the upright page in PDF units",
    "page_height_pt": "height of the upright page in PDF units",
    "to_pdf": "a, b, c, d, e, f: x = a u + c v + e, y = b u + d v + f leads from pixels to PDF units",
    "sha256": "sha256 of the page image, or of the document's file",
    "detection": "rank by score among the detections of the page, from 1; with document and page a key",
    "class_id": "number of the class in the model's list",
    "class_name": "class of the region",
    "score": "score of the detection, 0 to 1",
    "x_min": "left edge in pixels of the page image",
    "y_min": "upper edge in pixels of the page image, from the top",
    "x_max": "right edge in pixels of the page image",
    "y_max": "lower edge in pixels of the page image, from the top",
    "polygon": "outline in pixels of the page image: x and y alternating",
    "region": "place in the reading order of the page, from 1",
    "n_detections": "detections on the page",
    "n_regions": "regions on the page",
    "capped": "a cap was met: there may be more on the page",
    "n_proposals": "boxes that the region proposal network handed on",
    "precision": "arithmetic of the convolutions",
    "device": "kind of processor that detected",
    "type_height": "height of the body type's letters in pixels as the detector gets them",
    "ink": "darkness (of 255) of 32 x 32 cells, row by row",
    "flags": "what is worth a look on the page",
    "path": "path of the crop's file, relative to this folder, or of the document's in the archive",
    "text": "what was read, lines joined by newlines",
    "confidence": "how sure the engine is of the text, 0 to 1; null where the PDF has it",
    "language": "languages that the engine was told",
    "lines": "lines of the text, with confidence and box in pixels of the page image",
    "bytes": "size of the document in bytes",
    "pages": "pages of the document",
    "pages_ok": "its pages that are not failed",
    "pages_failed": "its pages that failed",
    "regions": "its regions",
}
#: Of a column of the archive's own CSV.
OWN_COLUMN = "a column of the archive's CSV"
