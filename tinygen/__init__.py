"""tinygen: a from-scratch deep-learning framework with the generative models of 2016.

>>> import tinygen as tg
>>> w = tg.tensor([1.0, -2.0], requires_grad=True)
>>> loss = (w * w).sum()
>>> loss.backward()
>>> w.grad
tensor([ 2., -4.])
"""

from __future__ import annotations

import tinygen_kernels as _kernels  # it sets how OpenMP's threads wait, before they are loaded

from . import functional, nn, optim, random
from .autograd import backward, enable_grad, grad, is_grad_enabled, no_grad
from .creation import (
    arange,
    empty,
    eye,
    from_dlpack,
    from_numpy,
    full,
    linspace,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randperm,
    zeros,
    zeros_like,
)
from .device import DeviceError, set_precision
from .functional import cat, exp, log, matmul, maximum, minimum, sqrt, stack, where
from .gradcheck import gradcheck
from .graph import CaptureError, capture
from .hooks import detect_anomaly, memory_report, profile
from .random import manual_seed
from .tensor import Tensor, tensor

__version__ = "0.1.0"
