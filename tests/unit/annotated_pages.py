"""Small images and COCO files about them, made by the tests."""

import json
import zlib

import numpy as np
from PIL import Image

from scanmill.annotations import read_annotations
from scanmill.coco import make_dataset

WIDTH, HEIGHT = 60, 90
BOX = (5, 10, 40, 30)


def save_image(path, *, width=WIDTH, height=HEIGHT, orientation=None, **options):
    """An image whose pixels depend on its name, so that no two are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-3:]).encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def annotation(name="text", box=BOX, **more):
    return {"class": name, "bbox": list(box), **more}


def write_coco(path, pages, classes=("text", "table")):
    """`pages`: name of an image -> annotations; or -> (further fields of the image, annotations)."""
    images, annotations = [], []
    for image_id, (name, content) in enumerate(pages.items(), 1):
        fields, regions = content if isinstance(content, tuple) else ({}, content)
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": image_id, "file_name": name, **size, **fields})
        for region in regions:
            category = list(classes).index(region["class"]) + 1
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category}
            annotations.append(row | {key: region[key] for key in region if key != "class"})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": place, "name": name} for place, name in enumerate(classes, 1)],
    }
    path.write_text(json.dumps(content))
    return path


def write_books(folder, *, books=6, pages=3, extra=None, file="a.json", classes=("text", "table")):
    """A COCO file of whole books, each page with a text and every second with a table; `extra` adds
    pages, or replaces them."""
    content = {}
    for book in range(books):
        for page in range(pages):
            name = f"book{book}/p{page}.png"
            save_image(folder / name)
            content[name] = [annotation(), annotation("table", (5, 45, 40, 30))][: 1 + page % 2]
    return write_coco(folder / file, content | (extra or {}), classes)


def dataset_of(*files, **settings):
    settings = {"min_examples": 1, **settings}
    return make_dataset(read_annotations(files), settings)
