"""Boxes and polygons stay where the ink is; nothing is mirrored; one seed, one page."""

import cv2
import numpy as np
import pytest

from scanmill.augmentation import (
    Augmentation,
    _random_window,
    augment,
    clip_polygon,
    crop,
    rotate,
)

PROBABILITIES = [name for name in Augmentation._fields if name.endswith("_probability")]
OFF = Augmentation()._replace(**dict.fromkeys(PROBABILITIES, 0))
ALWAYS = Augmentation()._replace(**dict.fromkeys(PROBABILITIES, 1))
GEOMETRY = OFF._replace(rotation_probability=1, crop_probability=1)


def page(height=400, width=300, colour=False, paper=235):
    if colour:
        return np.full((height, width, 3), (paper - 40, paper - 20, paper), np.uint8)
    return np.full((height, width), paper, np.uint8)


def polygon_of(box):
    left, top, right, bottom = box
    return np.array([left, top, right, top, right, bottom, left, bottom], np.float32)


def fill(image, box, ink=20):
    left, top, right, bottom = box
    image[top:bottom, left:right] = ink


def ink_box(image, limit=128):
    """The box of all dark pixels, where pixel i covers i to i + 1."""
    grey = image if image.ndim == 2 else image.mean(axis=2)
    rows, columns = np.flatnonzero((grey < limit).any(1)), np.flatnonzero((grey < limit).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def seeded(seed):
    return np.random.default_rng(seed)


# Where things are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("box", [(60, 90, 240, 310), (40, 200, 260, 212), (150, 50, 156, 340)])
def test_the_box_of_a_filled_rectangle_still_covers_it_exactly(box, colour):
    """With a polygon, whatever its shape; 2 px are what rounding and resampling take."""
    image = page(colour=colour)
    fill(image, box)
    moved = 0
    for seed in range(40):
        new, boxes, polygons, keep = augment(
            image, np.array([box], np.float32), [[polygon_of(box)]], GEOMETRY, seeded(seed)
        )
        assert keep.tolist() == [True]
        np.testing.assert_allclose(boxes[0], ink_box(new), atol=2)
        points = polygons[0][0].reshape(-1, 2)
        np.testing.assert_allclose([*points.min(0), *points.max(0)], boxes[0], atol=1e-3)
        moved += np.abs(boxes[0] - box).max() > 3
    assert moved > 30


def test_polygons_lie_on_their_ink():
    outline = np.array([[60, 80], [250, 100], [200, 180], [240, 320], [80, 300]], np.float32)
    image = page()
    cv2.fillPoly(image, [np.int32(outline)], 20)
    for seed in range(20):
        box = np.array([[*outline.min(0), *outline.max(0)]])
        new, _, polygons, _ = augment(image, box, [[outline.reshape(-1)]], GEOMETRY, seeded(seed))
        drawn = page(*new.shape)
        # OpenCV's points are the middles of pixels.
        points = np.int32(np.rint((polygons[0][0].reshape(-1, 2) - 0.5) * 256))
        cv2.fillPoly(drawn, [points], 20, shift=8)
        either, both = (drawn < 128) | (new < 128), (drawn < 128) & (new < 128)
        assert both.sum() > 0.98 * either.sum()


@pytest.mark.parametrize("degrees", [-2.0, -0.5, 1.0, 2.0])
def test_boxes_without_polygons_become_those_of_the_ellipse_in_them(degrees):
    for left, top, right, bottom in [(60, 90, 240, 310), (40, 180, 260, 210), (100, 80, 180, 160)]:
        image = page()
        centre = (left + right - 1) / 2, (top + bottom - 1) / 2
        axes = (right - left - 1, bottom - top - 1)
        cv2.ellipse(image, (centre, axes, 0), 20, -1)
        box = np.array([[left, top, right, bottom]], np.float32)
        np.testing.assert_allclose(ink_box(image), box[0], atol=1)
        image, turned, polygons = rotate(image, box, [], degrees)
        np.testing.assert_allclose(turned[0], ink_box(image), atol=2)
        assert polygons == []


def test_squares_without_polygons_do_not_grow_and_lines_by_half_of_what_their_corners_do():
    boxes = np.array([[100, 100, 200, 200], [0, 190, 1000, 210]], np.float32)
    _, turned, _ = rotate(page(400, 1000), boxes, [], 2.0)
    sides = turned[:, 2:] - turned[:, :2]
    np.testing.assert_allclose(sides[0], 100, rtol=1e-4)
    # Of the turned corners: 20 cos 2 + 1000 sin 2 = 54.9.
    np.testing.assert_allclose(sides[1], [999.4, 40.2], atol=0.1)


def test_a_page_turns_counterclockwise_about_its_middle_and_keeps_its_size():
    box = np.array([[280, 195, 300, 205]], np.float32)  # To the right of the middle.
    image, turned, polygons = rotate(page(), box, [[polygon_of(box[0])]], 2.0)
    assert image.shape == (400, 300)
    # 140 px from the middle: up by 140 sin 2 = 4.9.
    centre = (turned[0, :2] + turned[0, 2:]) / 2
    np.testing.assert_allclose(centre, [150 + 139.9, 200 - 4.9], atol=0.1)
    assert polygons[0][0][1] < 195


@pytest.mark.parametrize("colour", [False, True])
def test_corners_are_of_the_colour_of_the_paper(colour):
    image = page(colour=colour)
    fill(image, (50, 50, 250, 150))
    turned, _, _ = rotate(image, np.empty((0, 4), np.float32), [], 2.0)
    assert (turned[0, 0] == image[0, 0]).all()
    assert (turned[-1, -1] == image[0, 0]).all()


# What stays ---------------------------------------------------------------------------------------


def test_what_is_cut_is_clipped_and_what_is_cut_by_more_than_half_is_dropped():
    boxes = np.array(
        [
            [50, 50, 90, 90],  # inside
            [0, 50, 40, 90],  # a half stays
            [0, 50, 39, 90],  # less
            [0, 0, 15, 15],  # nothing
            [10, 30, 100, 100],  # reaches over two sides
        ],
        np.float32,
    )
    image, inside, polygons, keep = crop(page(200, 200), boxes, [], (20, 40, 180, 190))
    assert image.shape == (150, 160)
    assert image.flags.c_contiguous
    assert keep.tolist() == [True, True, False, False, True]
    assert inside[keep].tolist() == [[30, 10, 70, 50], [0, 10, 20, 50], [0, 0, 80, 60]]
    assert polygons == []
    assert (inside[~keep] >= 0).all()
    assert (inside[~keep] <= 160).all()


def test_the_polygon_decides_how_much_of_an_object_stays():
    # An L whose foot is nearly all of it: of the box 60 % stay, of the L 27 %.
    outline = np.array([0, 0, 10, 0, 10, 60, 100, 60, 100, 100, 0, 100], np.float32)
    box = np.array([[0, 0, 100, 100]], np.float32)
    _, inside, polygons, keep = crop(page(), box, [[outline]], (0, 0, 300, 72))
    assert keep.tolist() == [False]
    *_, keep = crop(page(), box, [[]], (0, 0, 300, 72))
    assert keep.tolist() == [True]
    # And the box that is left is the polygon's: the stem is 10 px wide.
    _, inside, polygons, keep = crop(page(), box, [[outline[:6], outline]], (0, 0, 300, 58))
    assert inside[0].tolist() == [0, 0, 10, 58]
    assert len(polygons[0]) == 2


def test_an_object_of_two_pieces_keeps_the_one_that_is_left():
    pieces = [polygon_of((10, 10, 30, 30)), polygon_of((60, 10, 80, 25))]
    box = np.array([[10, 10, 80, 30]], np.float32)
    _, inside, polygons, keep = crop(page(), box, [pieces], (0, 0, 50, 100))
    assert keep.tolist() == [True]  # 400 of 700
    assert inside[0].tolist() == [10, 10, 30, 30]
    assert [each.tolist() for each in polygons[0]] == [pieces[0].tolist()]


def test_clipping_a_polygon_by_hand():
    limits = np.array([0, 0, 10, 10], np.float32)
    triangle = np.array([5, -5, 15, 5, 5, 15], np.float32)
    clipped = clip_polygon(triangle, limits).reshape(-1, 2)
    assert sorted(set(map(tuple, clipped.tolist()))) == [(5, 0), (5, 10), (10, 0), (10, 10)]
    assert clip_polygon(triangle + 100, limits).size == 0
    inside = np.array([1, 1, 9, 1, 5, 9], np.float32)
    assert clip_polygon(inside, limits).tolist() == inside.tolist()


def test_clipped_polygons_have_the_area_of_what_is_seen_of_them():
    rng = seeded(0)
    limits = np.array([20, 30, 80, 90])
    for _ in range(50):
        # A star, not convex, about a point near the window.
        angles = (np.arange(9) + rng.uniform(0, 1, 9)) * 2 * np.pi / 9
        radius = rng.uniform(10, 60, 9)
        points = rng.uniform(20, 90, 2) + np.stack(
            [radius * np.cos(angles), radius * np.sin(angles)], axis=1
        )
        canvas = np.zeros((2000, 2000), np.uint8)
        cv2.fillPoly(canvas, [np.int32(np.rint(points * 10 + 500))], 1)
        seen = canvas[800:1400, 700:1300].sum() / 100
        x, y = clip_polygon(points.reshape(-1), limits).reshape(-1, 2).T
        area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
        assert area == pytest.approx(seen, abs=20, rel=0.01)


def test_windows_keep_their_share_and_lie_anywhere():
    rng = seeded(0)
    windows = np.array([_random_window(300, 400, 0.8, rng) for _ in range(500)])
    widths, heights = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    assert windows.min() == 0
    assert (windows[:, 2].max(), windows[:, 3].max()) == (300, 400)
    assert (widths.min(), heights.min()) >= (240, 320)
    assert (widths.min(), heights.min()) < (245, 328)
    assert (widths.max(), heights.max()) > (295, 392)
    assert windows[:, 0].max() > 40


def test_objects_of_one_pixel():
    boxes = np.array([[150, 200, 151, 201], [10, 10, 11, 11]], np.float32)
    for polygons in ([], [[polygon_of(box)] for box in boxes]):
        for seed in range(20):
            new, after, _, keep = augment(page(), boxes, polygons, ALWAYS, seeded(seed))
            assert keep[0]
            sides = after[0, 2:] - after[0, :2]
            assert (sides >= 0.99).all()
            assert (sides < 1.1).all()
            assert (after >= 0).all()
            assert (after <= [new.shape[1], new.shape[0]] * 2).all()


def test_boxes_that_reach_over_the_edge_or_have_no_area():
    boxes = np.array([[-3, -2, 50, 60], [20, 20, 20, 90], [-30, 5, -10, 20]], np.float32)
    _, after, _, keep = augment(page(), boxes, [], OFF, seeded(0))
    assert keep.tolist() == [True, False, False]
    assert after[0].tolist() == [0, 0, 50, 60]


# What is given and returned -----------------------------------------------------------------------


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("shape", [(400, 300), (1, 1), (1, 500), (37, 2)])
def test_pages_without_objects_of_any_shape(shape, colour):
    image = page(*shape, colour=colour)
    for seed in range(10):
        none = np.empty((0, 4), np.float32)
        new, boxes, polygons, keep = augment(image, none, [], ALWAYS, seeded(seed))
        assert new.dtype == np.uint8
        assert new.ndim == image.ndim
        assert all(0.8 * old <= side <= old for side, old in zip(new.shape, shape, strict=False))
        assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)
        assert polygons == []
        assert (keep.shape, keep.dtype) == ((0,), bool)


def noisy(colour=False):
    image = page(colour=colour)
    fill(image, (60, 90, 240, 310))
    return (image - seeded(5).integers(0, 15, image.shape)).astype(np.uint8)


@pytest.mark.parametrize("colour", [False, True])
def test_one_state_gives_one_page_and_nothing_given_is_changed(colour):
    image, boxes = noisy(colour), np.array([[60, 90, 240, 310]], np.float32)
    polygons = [[polygon_of(boxes[0])]]
    for each in (image, boxes, polygons[0][0]):
        each.setflags(write=False)
    pages = set()
    for seed in range(12):
        once, again = (
            augment(image, boxes, polygons, Augmentation(), seeded(seed)) for _ in range(2)
        )
        assert once[0].tobytes() == again[0].tobytes()
        assert once[1].tobytes() == again[1].tobytes()
        assert once[2][0][0].tobytes() == again[2][0][0].tobytes()
        assert not np.shares_memory(once[0], image)
        pages.add(once[0].tobytes())
    assert len(pages) > 8


def test_a_page_that_nothing_happens_to_stays_itself():
    image, boxes = noisy(True), np.array([[60, 90, 240, 310]], np.float32)
    new, after, polygons, keep = augment(image, boxes, [[polygon_of(boxes[0])]], OFF, seeded(0))
    assert (new == image).all()
    assert (after == boxes).all()
    assert (polygons[0][0] == polygon_of(boxes[0])).all()
    assert keep.tolist() == [True]


def test_as_many_lists_of_polygons_as_boxes():
    with pytest.raises(ValueError, match="1 lists of polygons for 2 boxes"):
        augment(page(), np.ones((2, 4)), [[]], OFF, seeded(0))


def test_nothing_is_mirrored():
    """An F stays more like itself than like any mirror image, in 200 pages."""
    image = page(240, 240)
    cv2.putText(image, "F", (60, 190), cv2.FONT_HERSHEY_SIMPLEX, 6, 20, 16)
    box = ink_box(image).astype(np.float32)

    def glyph(picture, place):
        left, top, right, bottom = np.rint(place).astype(int)
        return cv2.resize(picture[top:bottom, left:right], (32, 32)).astype(float)

    def likeness(one, other):
        return np.corrcoef(one.ravel(), other.ravel())[0, 1]

    itself = glyph(image, box)
    others = [itself[:, ::-1], itself[::-1], itself[::-1, ::-1], itself.T]
    for seed in range(200):
        new, boxes, _, keep = augment(image, box[None], [[polygon_of(box)]], ALWAYS, seeded(seed))
        assert keep[0]
        found = glyph(new, boxes[0])
        assert likeness(found, itself) > 0.8
        assert likeness(found, itself) > max(likeness(found, other) for other in others) + 0.2


# Ink, light, file ---------------------------------------------------------------------------------


def styled(image, seed=0, **settings):
    none = np.empty((0, 4), np.float32)
    return augment(image, none, [], OFF._replace(**settings), seeded(seed))[0]


def test_each_change_is_made_by_its_own_probability_and_moves_nothing():
    image = noisy(colour=True)
    for name in PROBABILITIES:
        new = styled(image, **{name: 1})
        assert new.tobytes() != image.tobytes(), name
        if name not in ("rotation_probability", "crop_probability"):
            assert new.shape == image.shape
            np.testing.assert_allclose(ink_box(new), ink_box(image), atol=2)


def test_strengths_of_nothing_change_nothing():
    nothing = ALWAYS._replace(
        rotation=0, crop=1, ink=0, grey_probability=0, brightness=0, contrast=0, gamma=1
    )._replace(blur=0, noise=0, jpeg_probability=0)
    image = noisy(True)
    none = np.empty((0, 4), np.float32)
    assert (augment(image, none, [], nothing, seeded(0))[0] == image).all()


def test_strokes_grow_and_shrink_by_less_than_a_pixel():
    image = page()
    fill(image, (50, 50, 60, 350))
    dark = [int((255 - styled(image, seed, ink_probability=1)[200]).sum()) for seed in range(40)]
    before, step = int((255 - image[200]).sum()), 235 - 20
    assert before - 0.75 * step < min(dark) < before - 0.3 * step
    assert before + 0.75 * step > max(dark) > before + 0.3 * step


def test_grey_pages_stay_grey_and_colour_becomes_three_equal_channels():
    image = noisy(colour=True)
    grey = styled(image, grey_probability=1)
    assert (grey == np.rint(image.mean(axis=2))[:, :, None]).all()
    swapped = styled(np.ascontiguousarray(image[:, :, ::-1]), grey_probability=1)
    assert (swapped == grey).all()
    plain = noisy()
    assert (styled(plain, grey_probability=1) == plain).all()


def test_light_stays_in_its_bounds():
    image = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    means = [styled(image, seed, light_probability=1, contrast=0.0).mean() for seed in range(60)]
    assert image.mean() - 0.15 * 255 < min(means) < image.mean() - 32
    assert image.mean() + 0.15 * 255 > max(means) > image.mean() + 32
    middle = [styled(image, seed, gamma_probability=1)[0, 128] for seed in range(60)]
    # 255 * (128 / 255) ** 1.4 and ** (1 / 1.4)
    assert 97 <= min(middle) < 105
    assert 145 < max(middle) <= 156


def test_noise_and_blur_and_jpeg_by_their_strength():
    flat = np.full((300, 300), 128, np.uint8)
    spread = [styled(flat, seed, noise_probability=1).std() for seed in range(30)]
    assert max(spread) < 10.5
    assert max(spread) > 8
    edge = page()
    fill(edge, (150, 0, 300, 400))
    assert np.abs(np.diff(styled(edge, blur_probability=1)[200].astype(int))).max() < 215
    noisy_page = noisy()
    coarse, fine = (
        np.abs(
            styled(noisy_page, jpeg_probability=1, jpeg_quality=(quality, quality)).astype(int)
            - noisy_page
        ).mean()
        for quality in (30, 90)
    )
    assert 0 < 1.3 * fine < coarse
    colour = styled(np.repeat(noisy_page[:, :, None], 3, axis=2), noise_probability=1)
    assert (colour[:, :, 0] == colour[:, :, 2]).all()
