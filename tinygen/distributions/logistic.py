"""The logistic distribution cut into the levels of a pixel, and mixtures of it.

Levels are the values low, ..., high that a pixel can take; a value's probability is that of the
bin around it, and the two outer bins reach to infinity, so that the levels' probabilities sum to 1
(Kingma et al. 2016, arXiv 1606.04934; Salimans et al. 2017, arXiv 1701.05517).
"""

from __future__ import annotations

from typing import Any

from .. import functional as F
from .. import random
from ..device import array_module
from ..random import Generator
from ..tensor import Tensor
from .basic import Categorical, array_of, common_shape, device

__all__ = ["DiscretizedLogistic", "LogisticMixture"]


class _Levels:
    """`levels` equally spaced values from `low` to `high`."""

    def __init__(self, levels: int, low: float, high: float):
        if levels < 2 or not low < high:
            raise ValueError(
                f"a discretised logistic: levels={levels}, low={low}, high={high}; "
                "expected at least 2 levels and low < high"
            )
        self.levels, self.low, self.high = levels, low, high

    def _options(self) -> dict:
        return {"levels": self.levels, "low": self.low, "high": self.high}

    def _nearest(self, x):
        """The level nearest to each value of an array."""
        step = (self.high - self.low) / (self.levels - 1)
        index = array_module(x).rint((x - self.low) * (1 / step)).clip(0, self.levels - 1)
        return (self.low + index * step).astype(x.dtype)


class DiscretizedLogistic(_Levels):
    """P(x) = σ((x + h - mean) / s) - σ((x - h - mean) / s), s = exp(log_scale), h half a level.

    The lowest bin begins at -∞, the highest ends at +∞.
    """

    def __init__(
        self,
        mean: Any,
        log_scale: Any,
        *,
        levels: int = 256,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(levels, low, high)
        self.mean, self.log_scale = mean, log_scale
        self.shape = common_shape("DiscretizedLogistic", mean=mean, log_scale=log_scale)

    def log_prob(self, x):
        """log P(x) of levels x; accurate where P itself would round to 0."""
        return F.discretized_logistic_log_prob(x, self.mean, self.log_scale, **self._options())

    def sample(self, shape: tuple[int, ...] = (), *, generator: Generator | None = None) -> Tensor:
        """Levels, without a gradient; `shape` puts axes in front."""
        mean, log_scale = array_of(self.mean), array_of(self.log_scale)
        draw = (generator or random.default_generator()).uniform
        # Away from 0 and 1, where the quantile log(u / (1 - u)) is infinite.
        edge = 2.0**-24
        options = {"dtype": mean.dtype, "device": device(mean)}
        u = draw((*shape, *self.shape), edge, 1 - edge, **options)
        return Tensor(self._nearest(mean + F.exp(log_scale) * (F.log(u) - F.log1p(-u))))


class LogisticMixture(_Levels):
    """Σ_m softmax(logits)_m DiscretizedLogistic(mean_m, log_scale_m), components (..., M) last."""

    def __init__(
        self,
        logits: Any,
        mean: Any,
        log_scale: Any,
        *,
        levels: int = 256,
        low: float = -1.0,
        high: float = 1.0,
    ):
        super().__init__(levels, low, high)
        self.shape = common_shape("LogisticMixture", logits=logits, mean=mean, log_scale=log_scale)
        self.shape = self.shape[:-1]
        self.logits = logits
        self.component = DiscretizedLogistic(mean, log_scale, **self._options())

    def log_prob(self, x):
        """log P(x) of levels x (...)."""
        log_p = self.component.log_prob(F.unsqueeze(x, x.ndim))
        return F.logsumexp(F.log_softmax(self.logits) + log_p, -1)

    def sample(self, shape: tuple[int, ...] = (), *, generator: Generator | None = None) -> Tensor:
        """Levels, without a gradient: of one component, drawn first. `shape` as everywhere."""
        logits = array_of(self.logits)
        full = (*shape, *self.shape, logits.shape[-1])
        chosen = Categorical(F.expand(logits, full)).sample(generator=generator)
        index = F.unsqueeze(chosen.data, chosen.ndim)
        mean, log_scale = (
            F.gather(F.expand(array_of(x), full), -1, index)[..., 0]
            for x in (self.component.mean, self.component.log_scale)
        )
        return DiscretizedLogistic(mean, log_scale, **self._options()).sample(generator=generator)
