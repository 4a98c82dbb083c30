"""Numerical kernels: arrays in, arrays out, no tape.

`reference` (plain NumPy) defines every kernel, `cpu` (Numba and BLAS) and `cuda` (raw CUDA
through CuPy) compute the same functions with the same signatures.
"""

from . import threads  # before anything loads OpenMP
