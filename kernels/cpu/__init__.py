"""Numba and BLAS kernels for the CPU."""
