"""Lines of type as images, for engines to read."""

import shutil
import subprocess
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

TEXT = (
    "The herring of the northern coast",
    "is salted in barrels, and sent",
    "to 17 inland towns.",
)
FACE = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSerif.ttf")

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None
    or "eng"
    not in subprocess.run(["tesseract", "--list-langs"], capture_output=True).stdout.decode(),
    reason="Tesseract with English is not installed (`make test-packages`)",
)


def printed(lines=TEXT, size=42, leading=66, margin=12):
    """(H, W) uint8: the lines in black on white, as at 300 dpi."""
    font = ImageFont.truetype(str(FACE), size)
    width = max((int(font.getlength(line)) for line in lines), default=300)
    picture = Image.new("L", (width + 2 * margin, leading * max(len(lines), 1) + 2 * margin), 255)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((margin, margin + leading * number), line, 0, font)
    return np.array(picture)


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()
