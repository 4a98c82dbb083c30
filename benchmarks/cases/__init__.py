"""The kernels that are compared: a module for each kind, each with a list `CASES`."""
