"""Metadata and package layout; the build backend is named in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# `kernels/` installs as `tinygen_kernels`: the plain name belongs to another package on PyPI.
kernel_packages = ["tinygen_kernels"] + [
    f"tinygen_kernels.{name}" for name in find_packages("kernels")
]

setup(
    name="tinygen",
    version="0.1.0",
    description="A from-scratch deep-learning framework with the generative models of 2016",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["tinygen", "tinygen.*"]) + kernel_packages,
    package_dir={"tinygen_kernels": "kernels"},
    package_data={
        "tinygen": ["py.typed"],
        "tinygen.data": ["embedded/*/*"],
        "tinygen_kernels": ["cuda/*.cu", "cuda/*.cuh"],
    },
    install_requires=[
        "numpy>=2.0",
        "numba>=0.60",
        "scipy>=1.11",
        "threadpoolctl>=3.1",
        "safetensors>=0.4",
        "pillow>=10.0",
        "tqdm>=4.60",
        "matplotlib>=3.7",
    ],
    extras_require={
        "test": ["pytest>=7.4", "pytest-xdist>=3.5", "hypothesis>=6.80", "ruff>=0.5"],
        "bench": ["torch"],
        # From 14 on CuPy takes CUDA's headers and libraries from packages: the extra "ctk".
        "cuda12": ["cupy-cuda12x[ctk]>=14.0"],
        "cuda13": ["cupy-cuda13x[ctk]>=14.0"],
        "rl": ["gymnasium[mujoco]>=1.0"],
    },
)
