"""Plain NumPy: the definition of every kernel, and the oracle of the tests."""
