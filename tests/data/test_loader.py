import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygen.data import DataLoader, Dataset


def numbered(size, labels=True):
    """A set whose picture i has every pixel, and its label, equal to i."""
    numbers = np.arange(size)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (size, 1, 2, 2))
    return Dataset(images, numbers if labels else None, tuple(map(str, numbers)))


def labels_of(batches):
    return [batch.labels.tolist() for batch in batches]


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tinygen-data")]


@given(
    size=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_holds_every_image_once(size, batch_size, seed, epoch):
    loader = DataLoader(numbered(size), batch_size, shuffle=True, seed=seed, prefetch=0)
    batches = list(loader.epoch(epoch))
    assert len(batches) == len(loader) == -(-size // batch_size)
    assert sorted(np.concatenate([batch.labels for batch in batches])) == list(range(size))
    assert all(len(batch.labels) == batch_size for batch in batches[:-1])


@given(size=st.integers(10, 100), batch_size=st.integers(1, 10), start=st.integers(0, 60))
def test_resuming_gives_the_batches_of_a_straight_run(size, batch_size, start):
    def run(first):
        loader = DataLoader(numbered(size), batch_size, shuffle=True, drop_last=True, seed=5)
        return labels_of(loader.batches(first, start + 12))

    assert run(start) == run(0)[start:]


def test_order_depends_on_seed_and_epoch_only():
    loader = DataLoader(numbered(100), 100, shuffle=True, seed=1)
    first, second = labels_of(loader.batches(0, 2))
    assert first != second
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    assert labels_of([loader.batch(1), loader.batch(0)]) == [second, first]
    assert labels_of(DataLoader(numbered(100), 100, shuffle=True, seed=2).epoch(0)) != [first]


def test_large_seeds_are_told_apart():
    orders = [
        DataLoader(numbered(50), 50, shuffle=True, seed=seed).batch(0).labels.tolist()
        for seed in (2**64 - 1, 2**64 - 2, 2**63)
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_order_is_pinned():
    """Runs made with other versions of NumPy or of this package must stay repeatable."""
    loader = DataLoader(numbered(8), 8, shuffle=True, seed=3)
    assert labels_of(loader.batches(0, 2)) == [[6, 1, 5, 2, 7, 4, 3, 0], [7, 3, 5, 6, 4, 0, 2, 1]]


def test_without_shuffle_every_epoch_is_in_order():
    loader = DataLoader(numbered(5), 2)
    assert labels_of(loader.batches(0, 6)) == 2 * [[0, 1], [2, 3], [4]]


def test_drop_last_drops_the_short_batch():
    loader = DataLoader(numbered(5), 2, drop_last=True)
    assert len(loader) == 2
    assert labels_of(loader.epoch(0)) == [[0, 1], [2, 3]]


def test_images_and_labels_stay_together_and_are_scaled():
    loader = DataLoader(numbered(50), 7, shuffle=True, value_range=(0.0, 255.0))
    for images, labels in loader.epoch(3):
        assert images.dtype == np.float32
        assert images.shape == (len(labels), 1, 2, 2)
        np.testing.assert_array_equal(images[:, 0, 1, 1], labels)


def test_without_labels():
    loader = DataLoader(numbered(3, labels=False), 2)
    assert [batch.labels for batch in loader.epoch(0)] == [None, None]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_prefetch_changes_nothing(prefetch):
    loader = DataLoader(numbered(20), 3, shuffle=True, prefetch=prefetch)
    expected = [loader.batch(step).labels.tolist() for step in range(4, 30)]
    assert labels_of(loader.batches(4, 30)) == expected
    assert not background_threads()


def test_prefetch_is_bounded_and_runs_in_one_background_thread(monkeypatch):
    loader = DataLoader(numbered(20), 2, prefetch=2)
    made, callers = [], set()

    def batch(step, original=loader.batch):
        made.append(step)
        callers.add(threading.current_thread())
        return original(step)

    monkeypatch.setattr(loader, "batch", batch)
    batches = loader.batches()
    for taken in range(1, 6):
        next(batches)
        assert len(made) <= taken + 2
    batches.close()
    assert len(callers) == 1
    assert threading.main_thread() not in callers


@pytest.mark.parametrize("leave", ["break", "exception", "close"])
def test_leaving_early_ends_the_thread(leave):
    batches = DataLoader(numbered(20), 2).batches()
    next(batches)
    assert background_threads()
    if leave == "break":
        for _ in batches:
            break
        del batches
    elif leave == "exception":
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)
    else:
        batches.close()
    assert not background_threads()


def test_an_error_in_the_thread_reaches_the_consumer(monkeypatch):
    loader = DataLoader(numbered(20), 2)

    def batch(step, original=loader.batch):
        if step == 3:
            raise OSError("disk gone")
        return original(step)

    monkeypatch.setattr(loader, "batch", batch)
    batches = loader.batches()
    assert labels_of(next(batches) for _ in range(3)) == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert not background_threads()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2, "seed": -1}, "seed=-1"),
        ({"batch_size": 2, "prefetch": -1}, "prefetch=-1"),
        ({"batch_size": 6, "drop_last": True}, "5 images make no batch of 6"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(numbered(5), **options)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="0 images"):
        DataLoader(numbered(0), 2)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="count from 0"):
        DataLoader(numbered(5), 2).batch(-1)
