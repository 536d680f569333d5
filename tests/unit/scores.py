"""Thresholds that some scores pass and others do not, whatever model they are of."""

import numpy as np


def between(scores):
    """The middle of the widest gap between two neighbours of these scores."""
    ranked = np.sort(np.asarray(scores, float))
    gaps = np.diff(ranked)
    widest = gaps.argmax()
    assert gaps[widest] > 0
    return float(ranked[widest : widest + 2].mean())
