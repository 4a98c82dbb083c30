"""Pictures to train on: `load` a known set or a folder, cut it into batches with `DataLoader`.

Text for the recurrent models comes from `load_text`.
"""

from .dataset import DataError, Dataset, to_float
from .image_folder import load_folder
from .loader import Batch, DataLoader
from .registry import DATASETS, load
from .text import Text, load_text

__all__ = [
    "DATASETS",
    "Batch",
    "DataError",
    "DataLoader",
    "Dataset",
    "Text",
    "load",
    "load_folder",
    "load_text",
    "to_float",
]
