"""The pages that a detector is trained on, varied, and their order: functions of seed and iteration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances, PolygonMasks

from scanmill.augmentation import Augmentation, augment
from scanmill.errors import UserError
from scanmill.image_files import decode_reduced
from scanmill.preprocessing import read_image_file, reduction_before, resize, resized_shape

#: Batches among whose pages the wide ones come last.
SORTED = 20


class TrainingPages:
    """Annotated pages as Detectron2 trains on them; a map-style dataset of (iteration's place, page)."""

    def __init__(
        self,
        truth: Mapping[str, Any],
        images: Path,
        config: CfgNode,
        color: str,
        seed: int,
        reduced: Path,
    ) -> None:
        """`truth` is COCO with ids from 1 in class order, `images` the folder of its file names;
        `color` is `grey`, `BGR` or `RGB`. In `reduced`, pages far larger than they are trained on are
        kept as they are decoded: a page of 600 dpi takes seconds."""
        self.images, self.color, self.seed, self.reduced = images, color, seed, reduced
        self.sizes, self.longest = config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN
        self.batch = config.SOLVER.IMS_PER_BATCH
        self.augmentation = Augmentation()
        objects: dict[int, list[dict]] = {image["id"]: [] for image in truth["images"]}
        for each in truth["annotations"]:
            objects[each["image_id"]].append(each)
        self.pages = [
            (image, objects[image["id"]])
            for image in truth["images"]
            if objects[image["id"]] or not config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        ]
        self.wide = np.array([image["width"] > image["height"] for image, _ in self.pages], bool)

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        """Page `at[1]`, varied as the place `at[0]` in the order of training says."""
        place, index = at
        image, objects = self.pages[index]
        rng = np.random.default_rng([self.seed, place])
        pixels, reduction = self._read(image)
        boxes = np.array([each["bbox"] for each in objects], np.float32).reshape(-1, 4) / reduction
        boxes[:, 2:] += boxes[:, :2]
        polygons = [
            [np.asarray(part, np.float32) / reduction for part in each["segmentation"]]
            for each in objects
        ]
        pixels, boxes, polygons, keep = augment(pixels, boxes, polygons, self.augmentation, rng)
        height, width = pixels.shape[:2]
        # One size for a batch: its pages are padded to the largest.
        size = np.random.default_rng([self.seed, place // self.batch, 2]).choice(self.sizes)
        shape = resized_shape(height, width, int(size), self.longest)
        pixels = resize(pixels, *shape)
        zoom = np.array([shape[1] / width, shape[0] / height], np.float32)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        elif self.color == "RGB":
            pixels = pixels[..., ::-1]
        # A mask of an object that has but a box is the box.
        chosen = [polygons[i] or [_corners(boxes[i])] for i in np.flatnonzero(keep)]
        class_ids = np.array([each["category_id"] - 1 for each in objects], np.int64)
        # Arrays through a pipe, not tensors in shared memory, of which containers have little.
        return {
            "image": np.array(pixels.transpose(2, 0, 1), order="C"),
            "boxes": boxes[keep] * np.tile(zoom, 2),
            "classes": class_ids[keep],
            "polygons": [
                [part * np.tile(zoom, len(part) // 2) for part in each] for each in chosen
            ],
            "file_name": image["file_name"],
        }

    def _read(self, image: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        """The page as it is decoded for detection, and by how much it is smaller than the image."""
        height, width = image["height"], image["width"]
        shape = resized_shape(height, width, max(self.sizes), self.longest)
        reduction = reduction_before(max(shape[0] / height, shape[1] / width))
        kept, grey = self.reduced / f"{image['id']}.png", self.color == "grey"
        if reduction > 1 and kept.exists():
            data, rest = kept.read_bytes(), 1
        else:
            data, rest = read_image_file(str(self.images / image["file_name"])).data, reduction
        pixels = decode_reduced(data, rest, grey)
        if pixels is None:
            raise UserError(
                f"{self.images / image['file_name']} cannot be decoded. Prepare the dataset again."
            )
        if rest > 1:
            draft = kept.with_suffix(f".{os.getpid()}.tmp")
            kept.parent.mkdir(exist_ok=True)
            draft.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
            os.replace(draft, kept)
        if pixels.ndim == 2 and not grey:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return pixels, reduction


def as_input(page: Mapping[str, Any], masks: bool) -> dict[str, Any]:
    """A page of TrainingPages as Detectron2's models take it."""
    instances = Instances(page["image"].shape[1:])
    instances.gt_boxes = Boxes(torch.from_numpy(page["boxes"]))
    instances.gt_classes = torch.from_numpy(page["classes"])
    if masks:
        instances.gt_masks = PolygonMasks(page["polygons"])
    return {"image": torch.from_numpy(page["image"]), "instances": instances}


def _corners(box: np.ndarray) -> np.ndarray:
    x_min, y_min, x_max, y_max = box
    return np.array([x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max], np.float32)


class Order:
    """Batches of (place, page), page after page in a new order each epoch, from an iteration on.

    Of pages that follow each other, wide ones come last, so that few batches have both kinds: each page
    of a batch is padded to its widest and its highest.
    """

    def __init__(
        self,
        wide: np.ndarray,
        batch: int,
        seed: int,
        start: int,
        end: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Of iterations `start` to `end`, and of each batch the part of process `rank` of `ranks`;
        `wide` (N,) bool says which pages are wider than high."""
        self.wide, self.batch, self.seed, self.start, self.end = wide, batch, seed, start, end
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        """Number of batches."""
        return self.end - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches."""
        epoch, order, pages = -1, np.zeros(0, np.int64), len(self.wide)
        for iteration in range(self.start, self.end):
            batch = []
            for place in range(iteration * self.batch, (iteration + 1) * self.batch):
                if place // pages != epoch:
                    epoch = place // pages
                    order = np.random.default_rng([self.seed, epoch, 1]).permutation(pages)
                    order = order[
                        np.lexsort((self.wide[order], np.arange(pages) // (SORTED * self.batch)))
                    ]
                batch.append((place, int(order[place % pages])))
            yield batch[self.rank :: self.ranks]
