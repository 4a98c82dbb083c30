"""Functions of Tensors, one file per family of primitives; PyTorch's names and meaning."""

from . import operators
from .activation import *
from .conv import *
from .density import *
from .elementwise import *
from .flow import *
from .index import *
from .linear import *
from .loss import *
from .masked_conv import *
from .norm import *
from .pool import *
from .recurrent import *
from .reduce import *
from .scan import *
from .shape import *
from .softmax import *
from .weight_norm import *
from .window import *
