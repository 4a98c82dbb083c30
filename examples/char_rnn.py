"""char-RNN: an LSTM that learns to write, one character after the other.

    python examples/char_rnn.py                               # Python code, on the CPU
    python examples/char_rnn.py --data shakespeare.txt        # any text file in UTF-8
    python examples/char_rnn.py --preset large --device cuda  # on a GPU
    python examples/char_rnn.py --resume                      # go on with the latest run
    python examples/char_rnn.py --resume --prime "class " --temperature 0.5    # only write again

Karpathy 2015, "The unreasonable effectiveness of recurrent neural networks". Network, sampling and
the carried state: tinygen/models/char_rnn.py. The default text is the source of the standard
library of the Python that runs this: nothing has to be downloaded, and everybody who reads this
can judge the samples. It differs from version to version; config.json names the files.

What differs from Karpathy's train.lua: Adam in place of RMSProp, the gradient of the mean clipped
by its norm (there: of the sum, value by value), an embedding (there: one-hot vectors).

What to look for: log₂ of the number of characters, 6.6 bits, is what knowing nothing costs; their
frequencies alone bring it to 4.5. Then words appear, indentation, brackets that close.

The run folder holds samples/ (written after the prime text), temperatures.txt (at the end, bolder
from one to the next), metrics.csv and losses.png (bits per character, of the last window and on a
part of the held-out text), scores.json (on all of it) and checkpoint.safetensors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import tinygen
from tinygen import Tensor, nn, optim
from tinygen.data import Text, load_text
from tinygen.models.char_rnn import (
    Carried,
    CharRNN,
    Vocabulary,
    bits_per_character,
    sample,
    streams,
)
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, UserError, begin, cli, pictures
from tinygen.train.files import replacing, write_json

PRESETS = {
    "small": {
        "data": "python",
        "steps": 2000,
        "batch_size": 50,
        "window": 64,
        "hidden": 128,
        "layers": 2,
        "dropout": 0.0,
        "lr": 3e-3,
        "temperature": 0.7,
        "prime": "\n\ndef ",
        "sample_every": 250,
    },
    "large": {
        "data": "python",
        "steps": 20_000,
        "batch_size": 100,
        "window": 100,
        "hidden": 512,
        "layers": 3,
        "dropout": 0.3,
        "lr": 1e-3,
        "temperature": 0.7,
        "prime": "\n\ndef ",
        "sample_every": 1000,
    },
}
CLIP = 1.0  # largest norm of a gradient: a rare window may have one a hundred times the usual
# Samples are written at the early steps too: the start is where most happens.
CADENCE = {"log_every": 50, "save_every": 250, "early": (1, 20, 100)}
LENGTH = 600  # characters of a sample
TEMPERATURES = (0.4, 0.7, 1.0)
HELD_OUT_STREAMS = 50
HELD_OUT_STEPS = 500  # of each, for the curve


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    tinygen.manual_seed(settings["seed"])
    text = load_text(settings["data"])
    if settings.setdefault("text", text.source) != text.source:
        raise UserError(f"{run.path} was started with another text than {text}: start a new run")
    vocabulary = Vocabulary.of(text.train)
    train_text, held_out = prepare(settings, text, vocabulary)

    architecture = {name: settings[name] for name in ("hidden", "layers", "dropout")}
    model = CharRNN(len(vocabulary), **architecture).to(settings["device"])
    carried = Carried(model.start(settings["batch_size"]))
    saved = {
        "model": "char-rnn",
        "config": {"characters": vocabulary.characters, **architecture},
        "parts": {
            "model": model,
            "carried": carried,
            "optimizer": optim.Adam(model.parameters(), lr=settings["lr"]),
        },
    }
    done = begin(settings, run, saved)
    print(f"{text}, {len(vocabulary)} different\nwriting to {run.path}")

    train(settings, run, train_text, held_out, vocabulary, saved, done)
    panels = [["bits_per_character", "held_out"]]
    pictures.plot(run.path / "losses.png", run.read_metrics(), panels)
    write_at_temperatures(settings, run, model, vocabulary)
    if settings["score"]:
        score(settings, run, model, held_out)


def parser() -> cli.Parser:
    parser = cli.Parser(
        "char-rnn",
        PRESETS,
        description=__doc__,
        data="a text file, or: python (the standard library's source)",
        free_on_resume=("prime", "temperature"),
    )
    add = parser.add_argument
    add("--window", type=cli.positive(int), help="characters between two updates (64; 100)")
    add("--hidden", type=cli.positive(int), help="units of an LSTM (128; large 512)")
    add("--layers", type=cli.positive(int), help="LSTMs on top of each other (2; large 3)")
    add("--lr", type=cli.positive(float), help="learning rate (3e-3; large 1e-3)")
    add("--prime", help='what samples go on from (default: a new "def ")')
    add(
        "--temperature",
        type=cli.positive(float),
        help="of the samples; the lower, the tamer (0.7)",
    )
    add("--sample-every", type=cli.positive(int), help="steps between samples (250; large 1000)")
    return parser


def prepare(settings: dict, text: Text, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Both texts as parallel streams of indices (T, N), on the device."""
    if not settings["prime"]:
        raise UserError("--prime is empty: the samples need something to go on from")
    n, window = settings["batch_size"], settings["window"]
    needed = n * (window + 1)
    if len(text.train) < needed:
        raise UserError(
            f"--batch-size {n} --window {window}: a step reads {needed:,} characters, "
            f"and {settings['data']} has {len(text.train):,} to train on"
        )
    if len(text.held_out) < 2:
        raise UserError(f"{settings['data']}: no text is left over to hold out")
    # Side by side is faster, but each stream starts without knowing what came before it.
    side_by_side = min(HELD_OUT_STREAMS, 1 + len(text.held_out) // (2 * HELD_OUT_STEPS))
    train_text, held_out = (
        Tensor(streams(vocabulary.encode(part), rows)).to(settings["device"])
        for part, rows in ((text.train, n), (text.held_out, side_by_side))
    )
    return train_text, held_out


def train(
    settings: dict,
    run: RunFolder,
    text: Tensor,
    held_out: Tensor,
    vocabulary: Vocabulary,
    saved: dict,
    done: int,
) -> None:
    """Read on from the step after `done`. Ctrl-C ends it, after saving, with `Stopped`."""
    model, carried = saved["parts"]["model"], saved["parts"]["carried"]
    window = settings["window"]
    if done == 0:
        write_sample(settings, run, 0, model, vocabulary)

    read_on = the_step(**saved["parts"])
    if not settings["eager"]:
        read_on = tinygen.capture(read_on, device=settings["device"])

    def watch() -> dict[str, float]:
        return {"held_out": bits_per_character(model, held_out[: HELD_OUT_STEPS + 1])}

    windows = (len(text) - 1) // window  # in an epoch
    characters = settings["batch_size"] * window
    options = {"batch_size": characters, "unit": "characters", **CADENCE}
    with Steps(settings, run, saved, start=done, **options) as steps:
        for step in steps:
            first = (step - 1) % windows * window
            if first == 0:
                carried.forget()
            bits = read_on(text[first : first + window], text[first + 1 : first + 1 + window])
            steps.log({"bits_per_character": bits}, watch)
            if steps.wants_samples:
                write_sample(settings, run, step, model, vocabulary)


def the_step(
    model: CharRNN, carried: Carried, optimizer: optim.Adam
) -> Callable[[Tensor, Tensor], Tensor]:
    """One training step: a function of a window (T, N) and what follows each of its characters,
    which returns the loss in bits per character."""

    def read_on(index: Tensor, target: Tensor) -> Tensor:
        loss, state = model.loss(index, target, carried.state)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        carried.keep(state)
        return loss / math.log(2)

    return read_on


def write(settings: dict, model: CharRNN, vocabulary: Vocabulary, temperature: float) -> str:
    """A sample that is the same in every run of this seed, whatever else was drawn."""
    numbers = RandomNumbers(settings["seed"]).fork("sample")
    prime = vocabulary.encode(settings["prime"])
    drawn = sample(model, prime, LENGTH, temperature=temperature, generator=numbers)
    return settings["prime"] + vocabulary.decode(drawn)


def write_sample(
    settings: dict, run: RunFolder, step: int, model: CharRNN, vocabulary: Vocabulary
) -> None:
    text = write(settings, model, vocabulary, settings["temperature"])
    save_text(run.sample_path(step).with_suffix(".txt"), text)


def write_at_temperatures(
    settings: dict, run: RunFolder, model: CharRNN, vocabulary: Vocabulary
) -> None:
    """The same random numbers, bolder and bolder; and as was asked for, on the screen."""
    written = {t: write(settings, model, vocabulary, t) for t in TEMPERATURES}
    parts = [f"---- temperature {t}\n{text}\n" for t, text in written.items()]
    save_text(run.path / "temperatures.txt", "\n".join(parts))
    print(write(settings, model, vocabulary, settings["temperature"]))


def save_text(path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8", newline="\n")


def score(settings: dict, run: RunFolder, model: CharRNN, held_out: Tensor) -> None:
    """Bits per character on all of the held-out text, in scores.json."""
    scores = {"bits_per_character": bits_per_character(model, held_out)}
    write_json(run.path / "scores.json", {"step": settings["steps"], **scores})
    print(f"held-out text: {scores['bits_per_character']:.4f} bits per character")


if __name__ == "__main__":
    sys.exit(cli.command(main))
