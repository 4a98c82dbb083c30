"""Optimizers that update all parameters in one fused pass, schedules, and weight averages.

Interfaces and defaults are PyTorch's.
"""

from . import lr_scheduler
from .averages import *
from .lr_scheduler import *
from .optimizer import *
from .rules import *
