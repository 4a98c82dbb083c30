"""A small classifier whose last hidden layer gives the features that samples are scored on.

The usual scores take features of an Inception network, a download trained on photographs. Here
tinygen trains a network of its own on the data at hand, the first time it is asked for (about a
minute), and keeps it in the user's cache folder. Scores on its features compare models of the same
data set, not with published figures.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import functional as F
from .. import nn, optim, random
from ..autograd import no_grad
from ..data import DataLoader, Dataset, to_float
from ..data.download import cache_folder
from ..tensor import Tensor
from ..train import CheckpointError, Progress, checkpoint

__all__ = ["FeatureNet", "feature_net"]

VERSION = 1  # of architecture and training: raise it with either, so that old files are not used
STEPS = 1500
BATCH = 128
SAMPLED = 5000  # images that the cache's key looks at


class FeatureNet(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to 128 features and, if it knows classes, their logits.

    Two 5 × 5 convolutions with stride 2 (16, 32 maps) and a dense layer, with ReLUs. `accuracy` is
    its share of right answers on the held-out images; NaN if it was not trained.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int):
        super().__init__()
        quarter = -(-height // 4) * -(-width // 4)  # each convolution halves, rounding up
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * quarter, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, classes) if classes else None
        self.register_buffer("accuracy", Tensor(np.full((), np.nan, np.float32)))

    def forward(self, images):
        return self.head(self.body(images))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The 128 features (N, 128), float32, of float images in [-1, 1] or of bytes."""
        return self._in_batches(self.body, images)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """p(y|x) as (N, classes). Raises ValueError if the network knows no classes."""
        if self.head is None:
            raise ValueError("probabilities: the data set has no labels to train a classifier on")
        return self._in_batches(lambda x: F.softmax(self(x), axis=-1), images)

    @staticmethod
    def _in_batches(function, images: np.ndarray) -> np.ndarray:
        with no_grad():
            parts = [
                function(Tensor(_floats(images[i : i + 500]))).numpy()
                for i in range(0, len(images), 500)
            ]
        return np.concatenate(parts)


def feature_net(
    training: Dataset, held_out: Dataset | None = None, *, seed: int = 0, cache: bool = True
) -> FeatureNet:
    """The network for a data set: from the cache folder, or trained there and then.

    Equal images, labels and seed give equal weights. Without labels (or with one class only) the
    weights stay as drawn: random features, which still tell distributions apart (Naeem et al.
    2020, arXiv 2002.09797), but know no classes.
    """
    classes = len(training.classes) if training.labels is not None else 0
    config = {
        "version": VERSION,
        "seed": seed,
        "image_shape": list(training.image_shape),
        "classes": classes,
        "data": _digest(training),
    }
    with _own_randomness(seed):
        net = FeatureNet(*training.image_shape, classes if classes > 1 else 0)
        if net.head is None:
            return net
        path = _path(training, config)
        file = {"model": "feature net", "config": config, "parts": {"net": net}}
        if cache and path.is_file():
            try:
                checkpoint.load(path, **file)
                return net
            except CheckpointError:
                pass  # only a cache: what is damaged is made again
        _train(net, training, seed)
        if held_out is not None:
            guesses = net.probabilities(held_out.images).argmax(axis=1)
            net.accuracy.fill_(float((guesses == held_out.labels).mean()))
        if cache:
            # Where the cache folder can't be written to, the next run trains again.
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.save(path, step=STEPS, **file)
    return net


def _train(net: FeatureNet, training: Dataset, seed: int) -> None:
    """Adam with a learning rate that falls to zero along half a cosine."""
    loader = DataLoader(
        training, min(BATCH, len(training)), shuffle=True, seed=seed, drop_last=True
    )
    optimizer = optim.Adam(net.parameters(), lr=1e-3)
    schedule = optim.CosineAnnealingLR(optimizer, STEPS)
    progress = Progress(STEPS, batch_size=BATCH, title="training the classifier for the scores")
    for _, (images, labels) in zip(progress, loader.batches(), strict=False):
        loss = F.cross_entropy(net(Tensor(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.show({"loss": loss.item()})


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Inside, the default generator starts from `seed`; outside, it goes on as if nothing was."""
    before = random.get_state()
    random.manual_seed(seed)
    try:
        yield
    finally:
        random.set_state(before)


def _floats(images: np.ndarray) -> np.ndarray:
    return to_float(images) if images.dtype == np.uint8 else images.astype(np.float32, copy=False)


def _digest(data: Dataset) -> str:
    """A hash of labels and of evenly chosen images: a folder's name does not say what is in it."""
    chosen = np.linspace(0, len(data) - 1, min(len(data), SAMPLED)).astype(int)
    digest = hashlib.sha256(np.ascontiguousarray(data.images[chosen]))
    digest.update(b"" if data.labels is None else data.labels.tobytes())
    return digest.hexdigest()


def _path(data: Dataset, config: dict) -> Path:
    shape = "x".join(map(str, data.image_shape))
    name = f"{Path(data.name).name}-{shape}-{config['data'][:12]}-seed{config['seed']}"
    return cache_folder() / "classifiers" / f"{name}-v{VERSION}.safetensors"
