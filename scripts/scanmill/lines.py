"""Lines of text: put together of the pieces that engines find, and as rows of the table `ocr`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Two pieces stand on one line if they share this part of the lower one's height: neighbouring lines
#: share less, even where the type is set without leading.
SAME_LINE = 0.5


class Line(NamedTuple):
    """A line of text, or a piece of one."""

    text: str
    confidence: float | None
    """0 to 1; None where the text was not recognised but read from a PDF."""
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    """The box, in pixels, origin top left."""

    def moved(self, x: float, y: float) -> Line:
        """The same line with its box `x` pixels further to the right and `y` further down."""
        return self._replace(
            x_min=self.x_min + x, y_min=self.y_min + y, x_max=self.x_max + x, y_max=self.y_max + y
        )


def join_pieces(pieces: Sequence[Line]) -> list[Line]:
    """Lines from top to bottom, each put together of its pieces from left to right.

    A piece belongs to the line whose nearest piece stands at its height, so that lines of a page askew
    stay together.
    """
    lines: list[list[Line]] = []
    for piece in sorted(pieces, key=lambda piece: (piece.y_min + piece.y_max, piece.x_min)):
        nearest = [_nearest(line, piece) for line in lines]
        gaps = {
            number: _gap(other, piece)
            for number, other in enumerate(nearest)
            if _shared_height(other, piece) >= SAME_LINE
        }
        if gaps:
            lines[min(gaps, key=gaps.__getitem__)].append(piece)
        else:
            lines.append([piece])
    return [_joined(sorted(line, key=lambda piece: piece.x_min)) for line in lines]


def _nearest(line: Sequence[Line], piece: Line) -> Line:
    return min(line, key=lambda other: _gap(other, piece))


def _gap(one: Line, other: Line) -> float:
    """Pixels between two pieces from left to right; less than 0 where one is above the other."""
    return max(one.x_min - other.x_max, other.x_min - one.x_max)


def _shared_height(one: Line, other: Line) -> float:
    """Share of the lower piece's height that both have, and less than 0 where they have none."""
    lower = min(one.y_max - one.y_min, other.y_max - other.y_min)
    shared = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    return shared / lower if lower > 0 else -1.0


def _joined(pieces: Sequence[Line]) -> Line:
    return Line(
        " ".join(piece.text for piece in pieces),
        mean_confidence(pieces),
        min(piece.x_min for piece in pieces),
        min(piece.y_min for piece in pieces),
        max(piece.x_max for piece in pieces),
        max(piece.y_max for piece in pieces),
    )


def mean_confidence(lines: Sequence[Line]) -> float | None:
    """The mean of the lines, each as often as it has characters; None where there is none to say."""
    known = [line for line in lines if line.confidence is not None]
    characters = sum(len(line.text) for line in known)
    if not characters:
        return None
    return sum(line.confidence * len(line.text) for line in known) / characters
