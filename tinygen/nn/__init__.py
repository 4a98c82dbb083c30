"""Layers and networks, under PyTorch's names: state dicts travel both ways."""

from .. import functional
from . import init, utils
from .activation import *
from .containers import *
from .conv import *
from .linear import *
from .loss import *
from .made import *
from .masked import *
from .module import *
from .norm import *
from .recurrent import *
