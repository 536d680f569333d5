"""Masks of regions -> their outlines."""

from __future__ import annotations

import cv2
import numpy as np

#: Points of an outline, at most.
MAX_POLYGON_POINTS = 32
#: An outline is traced on the mask enlarged by this factor.
MASK_SCALE = 4


def trace(filled: np.ndarray) -> np.ndarray | None:
    """The outer contour of the largest piece of `filled`, (H, W) uint8 of 0 and 1: (P, 2) int32 x, y
    of cells, with P <= MAX_POLYGON_POINTS, or None where there is no area."""
    contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)
    tolerance = 0.5
    outline = cv2.approxPolyDP(contour, tolerance, closed=True)
    while len(outline) > MAX_POLYGON_POINTS:
        tolerance *= 1.3
        outline = cv2.approxPolyDP(contour, tolerance, closed=True)
    return outline[:, 0] if len(outline) >= 3 else None


def mask_polygon(mask: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The outline of the largest piece of a mask, in pixels of the page.

    `mask` (M, M) float32 probabilities over `box` (4,), as Mask R-CNN's head gives them; returns
    (2 P,) int32 with P <= MAX_POLYGON_POINTS, or None where no probability reaches one half.
    """
    side = mask.shape[0]
    # Cell centres lie at (i + 0.5) / side of the box, and beyond the box the mask is zero: both as in
    # Detectron2's paste_masks_in_image (grid_sample, align_corners=False, zero padding).
    large = cv2.resize(np.pad(mask, 1), None, fx=MASK_SCALE, fy=MASK_SCALE)
    outline = trace((large >= 0.5).astype(np.uint8))
    if outline is None:
        return None
    share = ((outline.astype(np.float64) + 0.5) / MASK_SCALE - 1) / side
    corner, extent = box[:2].astype(np.float64), (box[2:] - box[:2]).astype(np.float64)
    points = np.rint(corner + share.clip(0, 1) * extent)
    return points.astype(np.int32).reshape(-1)
