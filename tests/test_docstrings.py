"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

import tinygen

MODULES = ["tinygen"] + [
    module.name
    for module in pkgutil.walk_packages(tinygen.__path__, "tinygen.")
    if "embedded" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples():
    found = [
        example
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        for example in test.examples
    ]
    assert len(found) > 20
