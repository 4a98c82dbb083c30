"""Batches that are sent to the GPU while it works: the same ones, never torn, never waited for."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinygen.data
from tinygen.data import DataLoader, Dataset


@pytest.fixture(scope="module")
def loader_of(cupy):
    tinygen.device.check("cuda")
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 3, 4), np.uint8)

    def make(labels: bool = True, **options) -> DataLoader:
        data = Dataset(images, np.arange(50) if labels else None)
        return DataLoader(data, 8, shuffle=True, **options)

    return make


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_they_are_the_cpus_batches(loader_of, prefetch, drop_last):
    loader = loader_of(prefetch=prefetch, drop_last=drop_last)
    start = len(loader) - 1  # with a short batch first, the next ones don't fit its buffer
    here = list(loader.batches(start, start + 9))
    there = list(loader.batches(start, start + 9, device="cuda"))
    assert len(there) == 9
    for a, b in zip(here, there, strict=True):  # all still whole after the last has come
        np.testing.assert_array_equal(b.images.get(), a.images)
        np.testing.assert_array_equal(b.labels.get(), a.labels)
        assert b.images.dtype == np.float32


def test_no_labels(loader_of):
    (batch,) = loader_of(labels=False).batches(0, 1, device="cuda")
    assert batch.labels is None


def test_the_loop_never_waits(loader_of, cupy):
    statistics = getattr(cupy, "statistics", None)
    if statistics is None:
        pytest.skip("a real GPU does not count synchronisations")
    waits = []
    synchronize = cupy.cuda.Event.synchronize

    def watched(event):
        waits.append(threading.current_thread() is threading.main_thread())
        synchronize(event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy.cuda.Event, "synchronize", watched)
        for _ in loader_of(prefetch=2).batches(0, 20, device="cuda"):
            pass
    assert len(waits) == 20
    assert not any(waits)


def test_leaving_the_loop_early(loader_of):
    batches = loader_of(prefetch=2).batches(device="cuda")
    first = next(batches)
    batches.close()
    assert np.isfinite(first.images.get()).all()


def test_an_error_in_the_thread_is_raised_in_the_loop(loader_of):
    loader = loader_of(prefetch=2)
    loader.dataset = None
    with pytest.raises(TypeError, match="has no len"):
        next(loader.batches(device="cuda"))
