"""What a job needs of a cluster: memory and time, from the size of its shard.

Bounds, not forecasts: a job that meets one is ended by the scheduler. `scripts/forecast_run.py` measures
what an archive takes, and prints lines for the profile that stand above these.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scanmill.archive import Document

#: In a manifest's lines.
_SIZES = re.compile(
    rb"^(?:[^\t\n]*\t){%d}([0-9]+)\t" % Document._fields.index("size"), re.MULTILINE
)


class ShardSize(NamedTuple):
    """How much a shard holds."""

    documents: int
    bytes: int

    @property
    def pages(self) -> int:
        """So many pages a shard of this size has at most, but for odd ones."""
        return max(PAGES_PER_DOCUMENT * self.documents, math.ceil(self.bytes / BYTES_PER_PAGE))


class Need(NamedTuple):
    """Of a job of a rule: what it takes whatever its shard, and for each page of it."""

    memory_mb: int
    memory_kb_per_page: float
    minutes: int
    seconds_per_page: float


#: A page scanned in two colours, or born digital, compressed well. Few pages are smaller.
BYTES_PER_PAGE = 50_000
#: Of documents of few bytes.
PAGES_PER_DOCUMENT = 10

#: Measured peaks (`make benchmark-memory`, R50-FPN at 800 px) doubled, times of one core tripled. Rows
#: of tables are held by shard; images by page, and each of four workers may have one of 200 megapixels.
#: `recognize_text` had 1.0 GB with two workers over the demo archive, on a machine that others shared.
NEEDS = {
    "render_pages": Need(4000, 5, 20, 0.5),
    "detect_layout": Need(10_000, 50, 30, 0.5),
    "detect_layout_cpu": Need(10_000, 50, 30, 3.0),
    "select_regions": Need(1000, 100, 10, 0.05),
    "crop_regions": Need(4000, 50, 20, 0.3),
    "recognize_text": Need(4000, 50, 30, 30.0),
}


#: Partitions often end jobs after a day; one that is ended goes on where it was.
MOST_MINUTES = 24 * 60


@cache
def shard_size(manifest: Path) -> ShardSize:
    """The size of the shard of a manifest.

    Nothing else in it is looked at, since every job of a cluster asks; damage is told by those that read
    it whole.
    """
    sizes = list(map(int, _SIZES.findall(manifest.read_bytes())))
    return ShardSize(len(sizes), sum(sizes))


@cache
def largest_shard(manifests: Path) -> ShardSize:
    """The largest size in a folder of manifests: jobs of one array ask for the same."""
    return max(map(shard_size, manifests.glob("*.tsv")), key=lambda size: size.pages)


def memory_mb(need: Need, size: ShardSize, attempt: int) -> int:
    """Megabytes that a job asks for at its first attempt, twice as much at its second, and so on."""
    return round(attempt * (need.memory_mb + need.memory_kb_per_page * size.pages / 1000))


def runtime_minutes(need: Need, size: ShardSize, attempt: int) -> int:
    """Minutes after which a job may be ended: what it finished is kept, and the next attempt goes on."""
    minutes = need.minutes + need.seconds_per_page * size.pages / 60
    return min(round(attempt * minutes), MOST_MINUTES)
