"""Batches in an order that depends on nothing but the seed and the step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .dataset import Dataset, to_float
from .transfer import Sender


class Batch(NamedTuple):
    """float32 images `(B, C, H, W)`, and int64 labels `(B,)` or None."""

    images: np.ndarray
    labels: np.ndarray | None


class DataLoader:
    """Cut a `Dataset` into batches of float32 images.

    Batch k of a run is the same whether the run started at step 0 or was resumed at k: the order
    of epoch e comes from a generator keyed by `(seed, e)` alone, so no draw of a model moves it.
    Pixels are mapped to `value_range`. The last batch of an epoch is smaller, unless `drop_last`.

    `prefetch` batches are made ahead in one background thread (0: none, made when asked for).

    >>> import tinygen.data
    >>> loader = DataLoader(tinygen.data.load(), batch_size=64, shuffle=True, drop_last=True)
    >>> len(loader)  # steps in an epoch
    140
    >>> for images, labels in loader.batches(start=1000, stop=1002):
    ...     print(images.shape, images.dtype, labels.shape)
    (64, 1, 28, 28) float32 (64,)
    (64, 1, 28, 28) float32 (64,)
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        value_range: tuple[float, float] = (-1.0, 1.0),
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1 or prefetch < 0 or not 0 <= seed < 2**64:
            raise ValueError(
                f"DataLoader: batch_size={batch_size}, prefetch={prefetch}, seed={seed}; "
                "expected batch_size >= 1, prefetch >= 0 and 0 <= seed < 2**64"
            )
        size = len(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.value_range = value_range
        self.prefetch = prefetch
        self._steps = size // batch_size if drop_last else -(-size // batch_size)
        self._order: tuple[int, np.ndarray] | None = None  # (epoch, order), the last one used
        if self._steps == 0:
            raise ValueError(
                f"DataLoader: {size:,} images make no batch of {batch_size:,}: "
                "give a smaller batch_size or drop_last=False"
            )

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return self._steps

    def batch(self, step: int) -> Batch:
        """Return the batch of any step of the run, counted from 0."""
        if step < 0:
            raise ValueError(f"DataLoader: step {step}; steps count from 0")
        epoch, position = divmod(step, self._steps)
        first = position * self.batch_size
        indices = self._epoch_order(epoch)[first : first + self.batch_size]
        labels = self.dataset.labels
        return Batch(
            to_float(self.dataset.images[indices], self.value_range),
            None if labels is None else labels[indices],
        )

    def batches(
        self, start: int = 0, stop: int | None = None, *, device: str = "cpu"
    ) -> Iterator[Batch]:
        """Yield the batches of steps `start`, `start + 1`, ... up to `stop`, or without end.

        On a GPU they are CuPy arrays, sent there while it computes on the one before.
        An error in the thread is raised here. Leaving the loop early ends the thread.
        """
        steps = count(start) if stop is None else iter(range(start, stop))
        if device == "cpu":
            yield from self._ahead(self.batch, steps)
            return
        sender = Sender(device, slots=self.prefetch + 3)
        yield from sender.batches(self._ahead(lambda step: sender.stage(self.batch(step)), steps))

    def _ahead(self, make: Callable[[int], Any], steps: Iterator[int]) -> Iterator[Any]:
        """make(step) for all steps, `prefetch` of them ahead of the caller."""
        if self.prefetch == 0:
            yield from map(make, steps)
            return
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tinygen-data")
        pending: deque[Future] = deque()
        try:
            for step in steps:
                pending.append(thread.submit(make, step))
                if len(pending) > self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            thread.shutdown(wait=True, cancel_futures=True)

    def epoch(self, index: int, *, device: str = "cpu") -> Iterator[Batch]:
        """Yield the batches of one epoch, counted from 0."""
        return self.batches(index * self._steps, (index + 1) * self._steps, device=device)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            epoch = 0
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._permutation(epoch))
        return self._order[1]

    def _permutation(self, epoch: int) -> np.ndarray:
        size = len(self.dataset)
        if not self.shuffle:
            return np.arange(size)
        # Sorting raw bits, and not Generator.permutation: NumPy promises the stream of a bit
        # generator for all versions, that of a Generator's methods only within one.
        key = np.array([self.seed, epoch], dtype=np.uint64)
        bits = np.random.Philox(key=key).random_raw(size)
        return np.argsort(bits, kind="stable")
