"""Cases of the likelihood models' kernels, and of DRAW's windows: those of the CPU's benchmark, at
sizes for a GPU."""

from __future__ import annotations

from cases.likelihood import bernoulli, discretized_logistic, gaussian, iaf_gate
from cases.windows import window

from .cases import Case, shared

__all__ = ["cases"]


def cases(quick: bool = False) -> list[Case]:
    """Forward and backward of each; tens of MB or more."""
    rows, images, pixels = (1 << 17, 64), (128, 128), 1 << 24
    glimpses = 4096, 2, 28, 12
    if quick:
        rows, images, pixels = (5, 7), (3, 2), 37
        glimpses = 3, 2, 6, 3
    found = {"density": [], "flow": [], "window": []}
    for gradient in (False, True):
        found["density"] += [
            gaussian(*rows, gradient),
            bernoulli(*images, gradient),
            discretized_logistic(pixels, gradient),
        ]
        found["flow"].append(iaf_gate(*rows, gradient))
        found["window"] += [window(*glimpses, gradient, writes=w) for w in (False, True)]
    return [shared(c, family, name=c.name) for family, several in found.items() for c in several]
