"""char-RNN: an LSTM that reads a text and says which character comes next.

    p(x_1 ... x_T) = Π_t p(x_t | x_1 ... x_{t-1}),    p(x_t | ...) = softmax(W h_{t-1} + b)

with h the output of stacked LSTMs that have read x_1 ... x_{t-1} (Karpathy 2015, "The unreasonable
effectiveness of recurrent neural networks"; Sutskever, Martens & Hinton 2011).

A text is too long to differentiate through. *Truncated* backpropagation through time cuts it into
windows: the state is carried from one to the next, the gradient stops at the border.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from .. import creation, nn, random
from .. import functional as F
from ..autograd import no_grad
from ..tensor import Tensor

__all__ = ["Carried", "CharRNN", "Vocabulary", "bits_per_character", "sample", "streams"]

UNKNOWN = "\ufffd"  # what any character outside of the vocabulary reads as
State = tuple[Tensor, Tensor]


class Vocabulary:
    """The characters a model knows: `characters` in the order of their indices, `UNKNOWN` first.

    >>> vocabulary = Vocabulary.of("abracadabra", least=2)
    >>> vocabulary.characters
    '\ufffdabr'
    >>> vocabulary.decode(vocabulary.encode("abcd"))
    'ab\ufffd\ufffd'
    """

    def __init__(self, characters: str):
        self.characters = characters
        self._index = {character: i for i, character in enumerate(characters)}

    @classmethod
    def of(cls, text: str, least: int = 5) -> Vocabulary:
        """All characters that the text has at least that often; the rarer ones teach UNKNOWN."""
        counts = Counter(text)
        return cls(UNKNOWN + "".join(sorted(c for c, n in counts.items() if n >= least)))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Indices (len(text),), int64."""
        return np.fromiter((self._index.get(c, 0) for c in text), np.int64, len(text))

    def decode(self, indices) -> str:
        """The text of some indices (n,)."""
        return "".join(self.characters[i] for i in indices)


class CharRNN(nn.Module):
    """Indices (T, N) and a state to logits (T, N, characters) and the state after them.

    A state is (h, c), each (layers, N, hidden); `start(N)` is the one before any text. `dropout`
    acts on what an LSTM hands upwards, never along time.
    """

    def __init__(
        self, characters: int, *, hidden: int = 128, layers: int = 2, dropout: float = 0.0
    ):
        super().__init__()
        self.shape_of_state = (layers, hidden)
        self.dropout = dropout
        self.embedding = nn.Embedding(characters, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, dropout=dropout)
        self.head = nn.Linear(hidden, characters)
        for layer in range(layers):
            # The gates stand as i, f, g, o. An open f lets the gradient through from the start
            # (Jozefowicz et al. 2015).
            forget = getattr(self.lstm, f"bias_ih_l{layer}").data[hidden : 2 * hidden]
            forget += 1

    def start(self, n: int) -> State:
        """The state of n streams before their first character: zeros."""
        (layers, hidden), weight = self.shape_of_state, self.head.weight
        options = {"dtype": weight.dtype, "device": weight.device}
        h, c = (creation.zeros(layers, n, hidden, **options) for _ in "hc")
        return h, c

    def forward(self, index, state: State):
        output, state = self.lstm(self.embedding(index), state)
        return self.head(F.dropout(output, self.dropout, training=self.training)), state

    def loss(self, index, target, state: State):
        """Mean of -log p(next character) in nats, and the state: index, target (T, N)."""
        logits, state = self(index, state)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten()), state


class Carried(nn.Module):
    """The state between two windows, in memory that stays where it is.

    A captured step is replayed on the addresses it was recorded with, so the state must be
    *written* there; handing on new arrays would have it start from the same state every time.
    """

    def __init__(self, state: State):
        super().__init__()
        self.register_buffer("h", state[0])
        self.register_buffer("c", state[1])

    @property
    def state(self) -> State:
        """To start the next window from."""
        return self.h, self.c

    def keep(self, state: State) -> None:
        """Write the state after a window, off the tape. After `backward`, which reads the old."""
        for mine, new in zip(self.state, state, strict=True):
            mine.copy_(new.detach())

    def forget(self) -> None:
        """Back to the start of the text."""
        for mine in self.state:
            mine.zero_()


def streams(index: np.ndarray, n: int) -> np.ndarray:
    """A text (characters,) as n parallel ones (T, n), each going on where the one before it ends.

    >>> streams(np.arange(7), 2)
    array([[0, 3],
           [1, 4],
           [2, 5]])
    """
    length = len(index) // n
    return np.ascontiguousarray(index[: n * length].reshape(n, length).T)


def bits_per_character(model: CharRNN, text: Tensor, window: int = 256) -> float:
    """Mean of -log₂ p(character | all before it in its stream) over streams (T, N).

    The state is carried through and starts at zero; a stream's first character is only read.
    """
    steps, n = text.shape
    if steps < 2:
        raise ValueError(f"bits_per_character: streams of {steps} characters; at least 2 needed")
    was_training, nats = model.training, 0.0
    model.eval()
    with no_grad():
        state = model.start(n)
        for first in range(0, steps - 1, window):
            last = min(first + window, steps - 1)
            loss, state = model.loss(text[first:last], text[first + 1 : last + 1], state)
            nats += loss.item() * (last - first)
    model.train(was_training)
    return nats / (steps - 1) / math.log(2)


def sample(
    model: CharRNN,
    prime: np.ndarray,
    length: int,
    *,
    temperature: float = 1.0,
    generator: random.Generator | None = None,
) -> np.ndarray:
    """`length` more characters after `prime` (n,), drawn from softmax(logits / temperature).

    Below 1 the likely ones become likelier, above 1 the odds are evened out. Returns int64
    (length,).
    """
    if not len(prime) or not temperature > 0:
        raise ValueError(
            f"sample: {len(prime)} characters to start from at temperature {temperature}; "
            "expected at least one, and a temperature above 0"
        )
    uniform = (generator or random.default_generator()).uniform(length, dtype=np.float64)
    was_training, drawn = model.training, np.empty(length, np.int64)
    model.eval()
    with no_grad():
        state, read = model.start(1), prime[:, None]
        for i in range(length):
            logits, state = model(Tensor(read).to(model.head.weight.device), state)
            p = _softmax(logits[-1, 0].numpy() / temperature)
            # By the inverse of the distribution function; its last value may be 1 - 1e-16.
            drawn[i] = min(np.searchsorted(np.cumsum(p), uniform[i], "right"), len(p) - 1)
            read = drawn[i : i + 1, None]
    model.train(was_training)
    return drawn


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max())
    return p / p.sum()
