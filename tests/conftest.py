"""Hypothesis runs the same examples every time, without a deadline: kernels compile lazily."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tinygen",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("tinygen")
