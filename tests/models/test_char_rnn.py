"""char-RNN: the network against PyTorch, its gradients, the carried state, and sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygen
from tinygen import Tensor, random
from tinygen.models.char_rnn import (
    UNKNOWN,
    Carried,
    CharRNN,
    Vocabulary,
    bits_per_character,
    sample,
    streams,
)

rng = np.random.default_rng(0)


@pytest.fixture
def model():
    tinygen.manual_seed(0)
    return CharRNN(7, hidden=5, layers=2)


def test_a_vocabulary_knows_what_it_saw_often_enough():
    vocabulary = Vocabulary.of("hello, hello\n" * 3 + "ß", least=3)
    assert vocabulary.characters == UNKNOWN + "\n ,ehlo"
    assert vocabulary.decode(vocabulary.encode("hole\nß?")) == f"hole\n{UNKNOWN}{UNKNOWN}"
    assert vocabulary.encode("").shape == (0,)
    assert len(Vocabulary(vocabulary.characters)) == 8


def test_streams_lie_side_by_side_and_go_on_where_the_one_before_ends():
    found = streams(np.arange(23), 4)
    assert found.shape == (5, 4)
    np.testing.assert_array_equal(found.T.ravel(), np.arange(20))
    assert found.flags.c_contiguous  # a window is one block


def test_the_network_is_what_pytorch_makes_of_its_weights(model):
    torch = pytest.importorskip("torch")
    lstm = torch.nn.LSTM(5, 5, 2)
    weights = {k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()}
    lstm.load_state_dict({k[5:]: v for k, v in weights.items() if k.startswith("lstm.")})
    index = rng.integers(0, 7, (6, 3))
    state = [rng.standard_normal((2, 3, 5)).astype(np.float32) for _ in "hc"]

    logits, (h, c) = model(Tensor(index), tuple(map(Tensor, state)))
    embedded = weights["embedding.weight"][torch.tensor(index)]
    output, ends = lstm(embedded, tuple(map(torch.tensor, state)))
    expected = output @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(logits.detach(), expected.detach(), atol=1e-6)
    for ours, theirs in zip((h, c), ends, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), atol=1e-6)


def test_the_gates_are_open_at_first(model):
    for layer in range(2):
        bias = getattr(model.lstm, f"bias_ih_l{layer}").detach().numpy().reshape(4, 5)
        assert bias[1].min() > 1 - 1 / math.sqrt(5)  # i, f, g, o
        assert np.delete(bias, 1, 0).max() < 1 / math.sqrt(5)


def test_gradients_through_the_window_and_into_the_state(model):
    """Along a random direction in every parameter and in the state, by central differences."""
    model.double()
    index, target = (Tensor(i) for i in rng.integers(0, 7, (2, 4, 3)))
    state = [Tensor(s, requires_grad=True) for s in rng.standard_normal((2, 2, 3, 5))]

    def loss():
        return model.loss(index, target, tuple(state))[0]

    loss().backward()
    for leaf in [*model.parameters(), *state]:
        direction, value, step = rng.standard_normal(leaf.shape), leaf.data.copy(), 1e-6
        ends = []
        for sign in (1, -1):
            leaf.data[...] = value + sign * step * direction
            ends.append(loss().item())
        leaf.data[...] = value
        slope = (ends[0] - ends[1]) / (2 * step)
        assert (leaf.grad.numpy() * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_windows_with_the_state_carried_are_one_long_text(model):
    text = Tensor(streams(rng.integers(0, 7, 60), 3))
    whole = bits_per_character(model, text, window=100)
    assert bits_per_character(model, text, window=4) == pytest.approx(whole, rel=1e-5)
    assert model.training
    logits, _ = model(text[:-1], model.start(3))
    p = logits.detach().softmax(-1).numpy()
    likely = np.take_along_axis(p, text.numpy()[1:, :, None], -1)
    assert whole == pytest.approx(-np.log2(likely).mean(), rel=1e-5)
    assert whole == pytest.approx(math.log2(7), abs=0.5)


def test_a_carried_state_is_written_where_it_is(model):
    carried = Carried(model.start(2))
    h, c = carried.state
    index = rng.integers(0, 7, (3, 2))
    loss, state = model.loss(Tensor(index), Tensor(index), carried.state)
    loss.backward()
    carried.keep(state)
    assert carried.state == (h, c)
    np.testing.assert_array_equal(h.numpy(), state[0].detach().numpy())
    np.testing.assert_array_equal(carried.state_dict()["c"].numpy(), state[1].detach().numpy())
    assert not h.requires_grad
    carried.forget()
    assert not h.numpy().any()
    assert not c.numpy().any()


def test_keeping_the_state_before_the_backward_pass_is_an_error(model):
    carried = Carried(model.start(2))
    index = Tensor(rng.integers(0, 7, (3, 2)))
    loss, state = model.loss(index, index, carried.state)
    carried.keep(state)
    with pytest.raises(RuntimeError, match="in place"):
        loss.backward()


def test_samples_have_the_models_probabilities_at_the_temperature(model):
    """The first character after the prime text, drawn often, against softmax(logits / T)."""
    model.head.weight.data[...] *= 6
    prime = np.array([3, 1])
    logits = model(Tensor(prime[:, None]), model.start(1))[0].detach().numpy()[-1, 0].astype(float)
    for temperature in (0.5, 1.5):
        generator = random.Generator(5)
        drawn = [
            sample(model, prime, 1, temperature=temperature, generator=generator)[0]
            for _ in range(600)
        ]
        p = np.exp(logits / temperature)
        p /= p.sum()
        found = np.bincount(drawn, minlength=7) / 600
        assert p.max() - p.min() > 0.1
        np.testing.assert_allclose(found, p, atol=4 * 0.5 / math.sqrt(600))


def test_samples_read_what_they_wrote(model):
    """As likely under the network as the numbers they were drawn with say: nothing is skipped."""
    prime = np.array([0, 5])
    cold = sample(model, prime, 12, temperature=1e-3, generator=random.Generator(1))
    text = np.concatenate([prime, cold])
    logits, _ = model(Tensor(text[:-1, None]), model.start(1))
    np.testing.assert_array_equal(cold, logits.detach().numpy()[1:, 0].argmax(-1))
    again = sample(model, prime, 12, temperature=1.0, generator=random.Generator(1))
    np.testing.assert_array_equal(
        again, sample(model, prime, 12, temperature=1.0, generator=random.Generator(1))
    )


def test_dropout_acts_while_training_only():
    tinygen.manual_seed(0)
    model = CharRNN(7, hidden=16, layers=2, dropout=0.5)
    text = Tensor(rng.integers(0, 7, (5, 2)))
    a, b = (model(text, model.start(2))[0].detach().numpy() for _ in range(2))
    assert (a != b).any()
    assert bits_per_character(model, text) == bits_per_character(model, text)


def test_mistakes_are_named(model):
    with pytest.raises(ValueError, match="0 characters to start from"):
        sample(model, np.empty(0, np.int64), 3)
    with pytest.raises(ValueError, match="temperature 0"):
        sample(model, np.array([1]), 3, temperature=0)
    with pytest.raises(ValueError, match="streams of 1 characters"):
        bits_per_character(model, Tensor(np.zeros((1, 3), np.int64)))
