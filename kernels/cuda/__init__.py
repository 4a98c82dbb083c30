"""Raw CUDA kernels through CuPy: the same functions and signatures as `cpu` and `reference`."""
