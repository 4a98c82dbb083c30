"""What every example shares: command line, run folder, checkpoint, progress, pictures.

The training loop itself is not here: it stands in each example, where it can be read.
"""

from . import checkpoint, cli, pictures
from .errors import CheckpointError, NonFiniteLoss, OutputError, Stopped, UserError
from .loop import Progress, check_finite
from .run import RunFolder

__all__ = [
    "CheckpointError",
    "NonFiniteLoss",
    "OutputError",
    "Progress",
    "RunFolder",
    "Stopped",
    "UserError",
    "check_finite",
    "checkpoint",
    "cli",
    "pictures",
]
