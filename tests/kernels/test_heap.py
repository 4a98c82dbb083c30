"""What a step frees, the next step gets without asking the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import numpy as np
import tinygen_kernels.cpu.heap

def step():
    graph = [np.ones(3 << 17) for _ in range(10)]  # 3 MB each, 768 pages

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
@pytest.mark.parametrize("setting", [None, "MALLOC_TRIM_THRESHOLD_"])
def test_steps_reuse_memory_unless_the_user_says_otherwise(monkeypatch, setting):
    for name in ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    if setting:
        monkeypatch.setenv(setting, "0")
    result = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, check=True)
    faults = int(result.stdout)
    assert faults > 5 * 768 if setting else faults < 768
