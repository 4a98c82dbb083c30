"""The training steps that are compared: a module for each model, all with the same four names.

CASES                     the sizes that are timed, by their name in the tables; frozen dataclasses
                          with a `batch_size`
SMALL                     the same cases at sizes for a test
tinygen_step(c, device)   a step without arguments; it returns its losses, not yet read
torch_step(c, how)        the same of the twin, which is run as `how` says (`common.Torch`)
pair(c)                   one loss of both, from the same weights, data and noise (`common.Pair`)

A twin is the same network with the same loss, batch and optimizer, written the way a good user of
PyTorch writes it. Nothing of PyTorch is imported before it is asked for: a process that times
tinygen must not load it.
"""
