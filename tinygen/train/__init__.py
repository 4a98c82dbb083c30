"""What every example shares: data, command line, run folder, checkpoint, progress, pictures.

The training loop itself is not here: it stands in each example, where it can be read. `Steps`
keeps its books.
"""

from . import checkpoint, cli, pictures
from .data import load_data
from .errors import CheckpointError, NonFiniteLoss, OutputError, Stopped, UserError
from .loop import Progress, check_finite
from .run import RunFolder
from .steps import Steps, begin

__all__ = [
    "CheckpointError",
    "NonFiniteLoss",
    "OutputError",
    "Progress",
    "RunFolder",
    "Steps",
    "Stopped",
    "UserError",
    "begin",
    "check_finite",
    "checkpoint",
    "cli",
    "load_data",
    "pictures",
]
