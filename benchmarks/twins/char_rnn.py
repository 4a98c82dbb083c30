"""char-RNN as examples/char_rnn.py trains it: the state goes on from window to window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .common import Pair, Recipe, Step, Torch, copy_weights, tinygen_training, torch_training


@dataclass(frozen=True)
class CharRNN:
    """Sizes; a batch is so many streams of `window` characters."""

    characters: int = 98
    hidden: int = 128
    layers: int = 2
    batch_size: int = 50
    window: int = 64


CASES = {"char-rnn 2x128, window 64, batch 50": CharRNN()}
SMALL = {"char-rnn 2x128, window 64, batch 50": CharRNN(7, 5, 2, 3, 4)}
RECIPE = Recipe(lr=3e-3, clip=1.0)


def window(c: CharRNN) -> tuple[np.ndarray, np.ndarray]:
    """Characters (window, N), and what follows each."""
    shape = c.window + 1, c.batch_size
    text = np.random.default_rng(0).integers(0, c.characters, shape)
    return text[:-1], text[1:]


def network(c: CharRNN):
    from tinygen.models import char_rnn

    return char_rnn.CharRNN(c.characters, hidden=c.hidden, layers=c.layers)


def twin(c: CharRNN):
    """A module from index, target (window, N) and a state to (loss, state)."""
    from torch import nn
    from torch.nn import functional as F

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(c.characters, c.hidden)
            self.lstm = nn.LSTM(c.hidden, c.hidden, c.layers)
            self.head = nn.Linear(c.hidden, c.characters)

        def forward(self, index, target, state=None):
            output, state = self.lstm(self.embedding(index), state)
            return F.cross_entropy(self.head(output).flatten(0, 1), target.flatten()), state

    return Twin()


def tinygen_step(c: CharRNN, device: str = "cpu") -> Step:
    from tinygen import Tensor, manual_seed
    from tinygen.models.char_rnn import Carried

    manual_seed(0)
    net = network(c).to(device)
    carried = Carried(net.start(c.batch_size))
    index, target = (Tensor(a).to(device) for a in window(c))
    latest = {}

    def loss():
        value, latest["state"] = net.loss(index, target, carried.state)
        return value

    return tinygen_training(net, loss, RECIPE, lambda: carried.keep(latest["state"]))


def torch_step(c: CharRNN, how: Torch) -> Step:
    import torch

    torch.manual_seed(0)
    net = how.net(twin(c))
    index, target = map(how.tensor, window(c))
    latest = {"state": None}

    def loss():
        value, state = net(index, target, latest["state"])
        latest["state"] = tuple(part.detach() for part in state)
        return value

    return torch_training(net, loss, RECIPE, how)


def pair(c: CharRNN) -> Pair:
    import torch

    from tinygen import Tensor, manual_seed

    manual_seed(0)
    ours, theirs = network(c), twin(c)
    copy_weights(ours, theirs)
    arrays = window(c)
    our_loss, _ = ours.loss(*map(Tensor, arrays), ours.start(c.batch_size))
    return Pair(ours, our_loss, theirs, theirs(*map(torch.from_numpy, arrays))[0])
