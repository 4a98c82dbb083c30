"""What a loop shows, and when it must stop."""

from __future__ import annotations

import pytest

from tinygen.train import NonFiniteLoss, Progress, check_finite


def test_steps_are_counted_from_one_and_after_a_resume_from_there(capsys):
    assert list(Progress(3, batch_size=2)) == [1, 2, 3]
    assert list(Progress(5, batch_size=2, start=3)) == [4, 5]
    assert list(Progress(5, batch_size=2, start=5)) == []


def test_the_bar_shows_the_values_and_the_speed(capsys):
    progress = Progress(4, batch_size=64)
    for _ in progress:
        progress.show({"loss": 1.23456, "D(x)": 0.5})
    assert progress.images_per_second > 0
    shown = capsys.readouterr().err
    assert "loss=1.23" in shown
    assert "D(x)=0.5" in shown
    assert "images/s=" in shown


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_named_with_its_step(value):
    check_finite(7, {"loss_d": 1e30})
    with pytest.raises(NonFiniteLoss, match=f"loss_g was {value} at step 7"):
        check_finite(7, {"loss_d": 1.0, "loss_g": value})
