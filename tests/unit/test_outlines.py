"""Outlines of regions from their masks."""

import cv2
import numpy as np
import pytest

from scanmill.outlines import MAX_POLYGON_POINTS, mask_polygon


def test_polygon_of_a_full_mask_is_the_box():
    polygon = mask_polygon(np.ones((28, 28), np.float32), np.array([10, 20, 290, 580], np.float32))
    points = polygon.reshape(-1, 2)
    drawn = np.zeros((600, 300), np.uint8)
    cv2.fillPoly(drawn, [points], 1)
    assert drawn[20:580, 10:290].mean() > 0.95
    assert drawn.sum() <= 282 * 562
    assert len(points) <= 8


def test_polygon_is_of_the_largest_piece():
    mask = np.zeros((28, 28), np.float32)
    mask[2:6, 2:6] = 1
    mask[12:26, 10:24] = 1
    points = mask_polygon(mask, np.array([100, 200, 380, 480], np.float32)).reshape(-1, 2)
    # Cells of 10 px: the piece reaches from 200 to 340 and from 320 to 460.
    assert points.min(axis=0) == pytest.approx([200, 320], abs=3)
    assert points.max(axis=0) == pytest.approx([340, 460], abs=3)


def test_polygon_of_a_ragged_mask_has_few_points():
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:28, :28]
    angle = np.arctan2(yy - 13.5, xx - 13.5)
    star = np.hypot(yy - 13.5, xx - 13.5) < 9 + 4 * np.sin(17 * angle)
    mask = np.clip(star + rng.uniform(-0.4, 0.4, (28, 28)), 0, 1).astype(np.float32)
    polygon = mask_polygon(mask, np.array([0, 0, 1000, 1000], np.float32))
    assert 10 < len(polygon) / 2 <= MAX_POLYGON_POINTS


@pytest.mark.parametrize("value", [0.0, 0.49, float("nan")])
def test_mask_below_one_half_has_no_polygon(value):
    mask = np.full((28, 28), value, np.float32)
    assert mask_polygon(mask, np.array([0, 0, 100, 100], np.float32)) is None
