"""OpenMP's threads wait as we say, unless the user says otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_users_setting_wins(own):
    values = f"[os.environ.get(name) for name in {NAMES}]"
    print_them = f"import json, os, tinygen; print(json.dumps({values}))"
    outside = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", print_them], env=outside | own, capture_output=True, check=True
    )
    expected = own or {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}
    assert json.loads(done.stdout) == [expected.get(name) for name in NAMES]
