"""Pieces of text become lines."""

import pytest

from scanmill.lines import Line, join_pieces, mean_confidence


def piece(text, x, y, width=40, height=20, confidence=0.5):
    return Line(text, confidence, x, y, x + width, y + height)


def test_pieces_of_a_line_are_joined_from_left_to_right_and_lines_go_down():
    pieces = [piece("right", 60, 3), piece("below", 0, 30), piece("left", 0, 0)]
    assert join_pieces(pieces) == [
        Line("left right", 0.5, 0, 0, 100, 23),
        Line("below", 0.5, 0, 30, 40, 50),
    ]


def test_lines_that_touch_stay_apart():
    assert [line.text for line in join_pieces([piece("a", 0, 0), piece("b", 0, 15)])] == ["a", "b"]


def test_the_pieces_of_a_page_askew_stay_on_their_line():
    # Each line falls by its whole height from left to right.
    words = [piece(f"{line}{i}", 50 * i, 30 * line + 5 * i) for line in range(3) for i in range(7)]
    joined = join_pieces(words)
    expected = [" ".join(f"{line}{i}" for i in range(7)) for line in range(3)]
    assert [line.text for line in joined] == expected


def test_confidence_is_that_of_a_character():
    pieces = [piece("a", 0, 0, confidence=1.0), piece("bcd", 50, 0, confidence=0.6)]
    assert mean_confidence(pieces) == pytest.approx(0.7)
    assert join_pieces(pieces)[0].confidence == pytest.approx(0.7)
    assert mean_confidence([]) is None
    assert mean_confidence([Line("a", None, 0, 0, 1, 1)]) is None
