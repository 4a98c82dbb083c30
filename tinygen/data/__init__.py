"""Pictures to train on: `load` a known set or a folder, cut it into batches with `DataLoader`."""

from .dataset import DataError, Dataset, to_float
from .image_folder import load_folder
from .loader import Batch, DataLoader
from .registry import DATASETS, load

__all__ = [
    "DATASETS",
    "Batch",
    "DataError",
    "DataLoader",
    "Dataset",
    "load",
    "load_folder",
    "to_float",
]
