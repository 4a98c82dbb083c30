"""tinygen: a from-scratch deep-learning framework with the generative models of 2016."""

from __future__ import annotations

import os

# Read by the OpenMP runtime when it loads: spinning threads would starve BLAS (docs/design.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .tensor import Tensor, tensor
from .autograd import backward, enable_grad, grad, is_grad_enabled, no_grad
