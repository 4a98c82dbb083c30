"""What a training loop shows while it runs, and what stops it."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping

from tqdm import tqdm

from .errors import NonFiniteLoss

__all__ = ["Progress", "check_finite"]


class Progress:
    """Steps `start + 1 .. steps`, with a bar that shows what `show` is given and the images (or
    another `unit`) per second.

    >>> for step in Progress(3, batch_size=64):
    ...     print(step)
    1
    2
    3
    """

    def __init__(
        self, steps: int, *, batch_size: int, start: int = 0, title: str = "", unit: str = "images"
    ):
        self.batch_size = batch_size
        self.unit = unit
        self.start = start
        self._times: deque[float] = deque(maxlen=50)  # compilation in the first step drops out
        self.bar = tqdm(
            desc=title or None,
            total=steps,
            initial=start,
            unit="step",
            dynamic_ncols=True,
            # A terminal sees it move; a log file gets a line now and then.
            mininterval=0.2 if sys.stderr.isatty() else 10,
        )

    def __iter__(self) -> Iterator[int]:
        with self.bar:
            for step in range(self.start + 1, self.bar.total + 1):
                self._times.append(time.perf_counter())
                yield step
                self.bar.update()

    def show(self, values: Mapping[str, float]) -> None:
        """Values beside the bar: `show({"D(x)": 0.6})`."""
        shown = {name: f"{value:.3g}" for name, value in values.items()}
        speed = {f"{self.unit}/s": f"{self.images_per_second:.0f}"}
        self.bar.set_postfix({**shown, **speed}, refresh=False)

    @property
    def images_per_second(self) -> float:
        """Speed over the last 50 steps; 0 before there are two."""
        if len(self._times) < 2:
            return 0.0
        seconds = self._times[-1] - self._times[0]
        return (len(self._times) - 1) * self.batch_size / seconds


def check_finite(step: int, losses: Mapping[str, float]) -> None:
    """Raise NonFiniteLoss if one of the losses is NaN or infinite; save nothing after it."""
    for name, value in losses.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"{name} was {value} at step {step}: the last good checkpoint is kept; "
                "a lower learning rate may help"
            )
