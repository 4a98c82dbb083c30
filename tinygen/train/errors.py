"""Errors that are the whole story for the person who typed the command: one line, no traceback."""

from __future__ import annotations

__all__ = ["CheckpointError", "NonFiniteLoss", "OutputError", "Stopped", "UserError"]


class UserError(ValueError):
    """A setting that can't be used; the message names the rule and the cure."""


class CheckpointError(UserError):
    """A checkpoint that can't be read, or belongs to another model."""


class NonFiniteLoss(UserError):
    """A loss became NaN or infinite: training on would only spoil the last good checkpoint."""


class OutputError(OSError):
    """A file or folder of the run can't be written."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C, after the step in flight was finished and saved."""
