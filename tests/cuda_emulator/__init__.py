"""CUDA kernels without a GPU: compiled as C++, run thread by thread, every access checked."""
