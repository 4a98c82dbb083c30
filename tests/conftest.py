"""Hypothesis runs the same examples every time, without a deadline: kernels compile lazily."""

import pytest
from hypothesis import HealthCheck, settings

from tinygen import autograd

settings.register_profile(
    "tinygen",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tinygen")


@pytest.fixture(autouse=True)
def _modes_are_left_as_found():
    """A mode or hook that outlives its test would change what all later ones test."""
    yield
    state = autograd._state
    leaked = {k: v for k, v in vars(state).items() if v != getattr(type(state), k)}
    vars(state).clear()
    assert not leaked, f"the tape's state was not restored: {leaked}"
