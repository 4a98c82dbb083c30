"""Raw CUDA kernels: the same functions and signatures as `cpu` and `reference`.

None is written yet; `tinygen.device` says so to whoever asks for a GPU.
"""
