"""What a training loop leaves on disk, and when."""

from __future__ import annotations

import numpy as np
import pytest

from tinygen import Tensor
from tinygen.nn import Linear
from tinygen.train import NonFiniteLoss, RunFolder, Steps, Stopped, UserError, begin, load_data

CADENCE = {"log_every": 2, "save_every": 3}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def saved():
    return {"model": "toy", "config": {}, "parts": {"layer": Linear(1, 1)}}


def settings(steps: int) -> dict:
    return {"model": "toy", "steps": steps, "sample_every": 4, "batch_size": 8}


def train(run, last: int, at=lambda steps, step: None, loss=1.0) -> dict[str, list[int]]:
    """Which steps there were, and which of them wanted samples or measured something."""
    seen: dict[str, list[int]] = {"all": [], "samples": [], "measured": []}
    kept = saved()
    done = begin(settings(last), run, kept)

    def more():
        seen["measured"].append(step)
        return {"more": 2.0}

    with Steps(settings(last), run, kept, start=done, early=(1,), **CADENCE) as steps:
        for step in steps:
            seen["all"].append(step)
            at(steps, step)
            steps.log({"loss": Tensor(np.float32(loss))}, more)
            if steps.wants_samples:
                seen["samples"].append(step)
    return seen


def test_what_happens_at_which_step(run):
    seen = train(run, 7)
    assert seen == {"all": [*range(1, 8)], "samples": [1, 4, 7], "measured": [2, 4, 6, 7]}
    assert run.read_metrics() == {"step": [2, 4, 6, 7], "loss": [1] * 4, "more": [2] * 4}
    assert train(run, 9)["all"] == [8, 9]
    with pytest.raises(UserError, match=r"--steps 8: .* is at step 9 already"):
        begin(settings(8), run, saved())


def test_ctrl_c_saves_the_step_in_flight_and_logs_nothing_out_of_turn(run):
    def press(steps, step):
        if step == 5:
            steps._ctrl_c.pressed = True

    with pytest.raises(Stopped, match="stopped after step 5 of 7"):
        train(run, 7, press)
    assert run.read_metrics()["step"] == [2, 4]
    assert train(run, 7)["all"] == [6, 7]


def test_a_loss_that_is_no_number_stops_before_anything_is_saved(run):
    with pytest.raises(NonFiniteLoss, match="loss was nan at step 2"):
        train(run, 7, loss=np.nan)
    assert not run.checkpoint.exists()
    assert not run.metrics.exists()


def test_data_come_with_something_held_out(tmp_path):
    training, held_out = load_data(
        {"data": "fashion-small", "image_size": None, "batch_size": 2}, channels=1
    )
    assert training.image_shape == held_out.image_shape == (1, 28, 28)
    assert (len(training), len(held_out)) == (9000, 1000)
    images = np.arange(21 * 16, dtype=np.uint8).reshape(21, 4, 4)
    np.savez(tmp_path / "own.npz", images=images)
    own = {"data": str(tmp_path / "own.npz"), "image_size": 4, "batch_size": 19}
    training, held_out = load_data(own)
    np.testing.assert_array_equal(held_out.images[:, 0], images[[9, 19]])
    assert len(training) == 19
    with pytest.raises(UserError, match=r"--batch-size 20: .* 19 images to train on and 2 held"):
        load_data({**own, "batch_size": 20})
