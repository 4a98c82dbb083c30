"""PixelRNN: images as a chain of pixels, each drawn given all before it.

    python examples/pixelrnn.py                                # clothes in 4 greys, on the CPU
    python examples/pixelrnn.py --data mnist --levels 2        # binary digits, redrawn each time
    python examples/pixelrnn.py --kind row                     # or cnn, gated; --layers 3 --skip
    python examples/pixelrnn.py --data emoji --colours 3       # colour after colour
    python examples/pixelrnn.py --multi-scale                  # every second pixel first
    python examples/pixelrnn.py --preset cifar --device cuda   # on a GPU
    python examples/pixelrnn.py --resume --temperature 0.8     # go on with the latest run, or only
                                                               # draw again

van den Oord, Kalchbrenner & Kavukcuoglu 2016 (arXiv 1601.06759). Networks: tinygen/models/
pixelrnn.py; drawing at the price of one forward pass: pixelrnn_sampling.py beside it.
What differs from the paper: Adam with a cosine down to 0 in place of RMSProp with a rate set by
hand, clipped gradients, and an average of the weights over time for all that is shown and scored.

What to look for: the likelihood is exact, so `held_out` is the whole truth about the model. It
starts at log(levels) nats for each pixel and colour. Digits in binary: 206 nats an image without
any context, below 95 after a few thousand steps; the paper's best network reached 79.20 on a
binarisation that was drawn once. `nats` is the last batch's loss; `train` and `held_out` are of
the averaged weights, on images and levels that stay the same, a few of each: it is how the two
curves move that counts, and they part when it overfits.

The run folder holds samples/ and training.gif (drawn by the same random numbers every time),
completions.png (hidden half, several ways to go on, original), heatmap.png (held-out images and
where they surprise: nats of each pixel), field.png (what a pixel sees of its past), drawing.gif
(the order of drawing), metrics.csv, losses.png, scores.json and checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinygen
from tinygen import Tensor, nn, no_grad, optim
from tinygen.data import DataLoader, Dataset, to_float
from tinygen.distributions import binarize, bits_per_dim
from tinygen.models.pixelrnn import KINDS, PixelRNN, quantise
from tinygen.models.pixelrnn_multiscale import MultiScalePixelRNN
from tinygen.models.pixelrnn_pictures import completions, drawing, receptive_field
from tinygen.models.pixelrnn_sampling import Model, sample, sample_naive
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, UserError, begin, cli, load_data, pictures
from tinygen.train.files import write_json

PRESETS = {
    "small": {
        "data": "fashion-small",
        "image_size": None,  # 28 for the sets that are, else 32
        "colours": 1,
        "levels": 4,
        "binarisation": None,  # dynamic, where there are 2 levels
        "kind": "diagonal",
        "layers": 1,
        "hidden": 16,
        "head": 32,
        "skip": False,
        "multi_scale": False,
        "steps": 2000,
        "batch_size": 16,
        "lr": 3e-3,
        "sample_every": 100,
        "temperature": 1.0,
        "occlude": 0.5,
        "naive": False,
    },
}
PRESETS["paper"] = {  # its binary digits
    **PRESETS["small"],
    "data": "mnist",
    "levels": 2,
    "layers": 7,
    "steps": 375_000,  # 100 epochs
    "lr": 1e-3,
    "sample_every": 5000,
}
PRESETS["cifar"] = {
    **PRESETS["small"],
    "data": "cifar10",
    "image_size": 32,
    "colours": 3,
    "levels": 256,
    "layers": 12,
    "hidden": 128,
    "head": 1024,
    "skip": True,
    "steps": 300_000,  # 96 epochs
    "lr": 1e-3,
    "sample_every": 5000,
}
ARCHITECTURE = ("kind", "levels", "layers", "hidden", "head", "skip", "multi_scale")
CLIP = 1.0  # largest norm of the gradient of the nats per pixel and colour
AVERAGED = 100  # steps that the weights are averaged over; a 40th of all if that is less
CADENCE = {"log_every": 50, "save_every": 250}
CURVE = 100  # images for either curve; the score takes all that are held out
SHOWN = 100  # samples in a grid
COMPLETED = 8  # images in completions.png, each in
WAYS = 5  # ways
FIELD = 16  # images whose gradients field.png averages
FRAMES = 60  # of drawing.gif
READABLE = 128  # pixels, about the size of an image in drawing.gif


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    tinygen.manual_seed(settings["seed"])
    settings["binarisation"] = check_binarisation(settings)
    training, watched = load_levels(settings)
    channels, *size = training.image_shape
    architecture = {name: settings[name] for name in ARCHITECTURE}
    architecture |= {"channels": channels, "image_size": size}
    try:
        model = build(**architecture).to(settings["device"])
    except ValueError as error:
        raise UserError(str(error)) from error
    optimizer = optim.Adam(model.parameters(), lr=settings["lr"])
    decay = 1 - 1 / max(1, min(AVERAGED, settings["steps"] / 40))
    saved = {
        "model": "pixelrnn",
        "config": architecture,
        "parts": {
            "model": model,
            "optimizer": optimizer,
            "schedule": optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["steps"]),
            "average": optim.ExponentialMovingAverage(model.parameters(), decay),
        },
    }
    done = begin(settings, run, saved)
    print(f"{training}\nwriting to {run.path}")

    train(settings, run, training, watched, saved, done)
    with saved["parts"]["average"].applied():
        draw_pictures(settings, run, model, watched["held_out"])
        if settings["score"]:
            score(settings, run, model, watched)


def build(*, multi_scale: bool, **architecture) -> Model:
    return (MultiScalePixelRNN if multi_scale else PixelRNN)(**architecture)


def parser() -> cli.Parser:
    free = ("temperature", "occlude", "naive")
    parser = cli.Parser("pixelrnn", PRESETS, description=__doc__, free_on_resume=free)
    add = parser.add_argument
    add("--kind", choices=KINDS, help="Row LSTM, Diagonal BiLSTM, PixelCNN or gated (diagonal)")
    add("--layers", type=cli.positive(int), help="blocks (1; paper 7, cifar 12)")
    add("--hidden", type=cli.positive(int), help="h, half the number of maps (16; cifar 128)")
    add("--head", type=cli.positive(int), help="width of the last layers (32; cifar 1024)")
    add("--skip", action=argparse.BooleanOptionalAction, help="connect every layer to the last")
    add("--multi-scale", action="store_true", help="draw a quarter of the pixels first")
    add("--colours", type=int, choices=(1, 3), help="grey or RGB (1; cifar 3)")
    add("--levels", type=int, help="values of a pixel, 2 to 256 (4; paper 2, cifar 256)")
    add(
        "--binarisation",
        choices=("dynamic", "static", "threshold"),
        help="with 2 levels: greys are chances, drawn for each batch or once, or cut at one half",
    )
    add("--lr", type=cli.positive(float), help="learning rate at the start (3e-3; others 1e-3)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (100; 5000)")
    add("--temperature", type=cli.positive(float), help="of samples: below 1 is tamer (1)")
    add("--occlude", type=part, help="part of the image to complete, from below (0.5)")
    add("--naive", action="store_true", help="draw without caches too, to compare: slow")
    return parser


def part(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


# ------------------------------------------------------------------------------------------ data


def check_binarisation(settings: dict) -> str | None:
    binarisation, levels = settings["binarisation"], settings["levels"]
    if levels == 2:
        return binarisation or "dynamic"
    if binarisation is not None:
        raise UserError(f"--binarisation {binarisation} needs --levels 2, not {levels}")
    return None


def numbers_for(settings: dict, purpose: str) -> RandomNumbers:
    """The same in every run of this seed, whatever else was drawn."""
    return RandomNumbers(settings["seed"]).fork(purpose)


def load_levels(settings: dict) -> tuple[Dataset, dict[str, np.ndarray]]:
    """The images to train on; and levels (N, C, H, W) to watch, of held-out images and of at most
    as many of those to train on, drawn once where chance is in them.
    """
    training, held_out = load_data(settings, channels=settings["colours"])

    def fixed(data: Dataset, purpose: str) -> np.ndarray:
        numbers = numbers_for(settings, purpose)
        return levels_of(settings, Tensor(to_float(data.images, (0, 1))), numbers).numpy()

    if settings["binarisation"] == "static":
        # As 0 and 255, so that they come out of the loader as 0 and 1.
        images = (255 * fixed(training, "training")).astype(np.uint8)
        training = Dataset(images, name=training.name, split=training.split)
    some = np.linspace(0, len(training) - 1, min(len(held_out), len(training))).astype(int)
    watched = training.take(some)
    return training, {"train": fixed(watched, "watched"), "held_out": fixed(held_out, "held out")}


def levels_of(settings: dict, images: Tensor, numbers: RandomNumbers | None = None) -> Tensor:
    """Pixels in [0, 1] to levels 0, ..., levels - 1."""
    if settings["binarisation"] in ("dynamic", "static"):
        return binarize(images, generator=numbers)
    return quantise(images, settings["levels"])


# -------------------------------------------------------------------------------------- training


def train(
    settings: dict,
    run: RunFolder,
    data: Dataset,
    watched: dict[str, np.ndarray],
    saved: dict,
    done: int,
) -> None:
    """From the step after `done` on. Ctrl-C ends it, after saving, with `Stopped`."""
    model, optimizer, schedule, average = saved["parts"].values()
    device = settings["device"]
    options = {"shuffle": True, "seed": settings["seed"], "drop_last": True}
    loader = DataLoader(data, settings["batch_size"], value_range=(0, 1), **options)
    dims = math.prod(data.image_shape)
    if done == 0:
        save_samples(settings, run, 0, model)

    learn = the_step(settings, model, optimizer, average)
    if not settings["eager"]:
        learn = tinygen.capture(learn, device=device)

    def watch() -> dict[str, float]:
        with average.applied():
            found = {name: float(nats_of(model, x[:CURVE]).mean()) for name, x in watched.items()}
        bits = {f"{name}_bits_per_dim": bits_per_dim(value, dims) for name, value in found.items()}
        return found | bits

    with Steps(settings, run, saved, start=done, **CADENCE) as steps:
        batches = loader.batches(done, settings["steps"], device=device)
        for step, (images, _) in zip(steps, batches, strict=False):
            steps.log(learn(Tensor(images)), watch)
            schedule.step()
            if steps.wants_samples:
                with average.applied():
                    save_samples(settings, run, step, model)


def the_step(
    settings: dict,
    model: Model,
    optimizer: optim.Adam,
    average: optim.ExponentialMovingAverage,
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of images in [0, 1], which returns the nats for an image."""

    def learn(images: Tensor) -> dict[str, Tensor]:
        loss = model.nll(levels_of(settings, images)).mean()
        optimizer.zero_grad()
        loss.backward()
        # A surprise that travels through all rows and columns can have a huge gradient.
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        average.update()
        return {"nats": loss * math.prod(images.shape[1:])}

    return learn


def nats(model: Model, images: np.ndarray) -> np.ndarray:
    """-log p of each pixel and colour of images (N, C, H, W) of levels."""
    device = next(model.parameters()).device
    parts = np.split(images, range(100, len(images), 100))
    with no_grad():
        return np.concatenate([model.nll(Tensor(part).to(device)).numpy() for part in parts])


def nats_of(model: Model, images: np.ndarray) -> np.ndarray:
    """-log p of each whole image."""
    return nats(model, images).sum((1, 2, 3), dtype=np.float64)


# -------------------------------------------------------------------------------------- pictures


def in_grid(settings: dict, images: np.ndarray, **options) -> np.ndarray:
    return pictures.grid(images, value_range=(0, settings["levels"] - 1), **options)


def draw(settings: dict, model: Model, n: int, purpose: str, by: Callable = sample) -> np.ndarray:
    numbers = numbers_for(settings, purpose)
    return by(model, n, numbers, temperature=settings["temperature"])[0]


def save_samples(settings: dict, run: RunFolder, step: int, model: Model) -> None:
    samples = draw(settings, model, SHOWN, "shown")
    pictures.save_png(run.sample_path(step), in_grid(settings, samples))


def draw_pictures(settings: dict, run: RunFolder, model: Model, held_out: np.ndarray) -> None:
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))
    metrics = run.read_metrics()
    panels = [["nats", "train", "held_out"], ["train_bits_per_dim", "held_out_bits_per_dim"]]
    pictures.plot(run.path / "losses.png", metrics, panels)
    completed = completions(
        model,
        held_out[:COMPLETED],
        numbers_for(settings, "completed"),
        hidden=settings["occlude"],
        ways=WAYS,
        temperature=settings["temperature"],
    )
    rows = completed.reshape(-1, *held_out.shape[1:])
    picture = in_grid(settings, rows, columns=completed.shape[1])
    pictures.save_png(run.path / "completions.png", picture)
    pictures.save_png(run.path / "heatmap.png", heat_map(settings, model, held_out[:16]))
    pictures.save_png(run.path / "field.png", fields(model, held_out[:FIELD]))
    draw_in_order(settings, run.path / "drawing.gif", model)


def heat_map(settings: dict, model: Model, images: np.ndarray) -> np.ndarray:
    """Images, each beside the nats of its pixels: from black, 0, by red and yellow to white, twice
    what a pixel costs that nothing is known about."""
    heat = nats(model, images).sum(1) / (2 * model.channels * math.log(model.levels))
    # Red, green and blue come one after another.
    colours = np.stack([3 * heat - colour for colour in range(3)], axis=1).clip(0, 1)
    images = np.broadcast_to(images / (settings["levels"] - 1), colours.shape)
    return pictures.pairs(images, colours, value_range=(0, 1))


def fields(model: Model, images: np.ndarray) -> np.ndarray:
    """What three pixels of a row see of their past."""
    # An odd row: the small image of a multi-scale model has none of them.
    i, width = 2 * round(model.height / 3) - 1, model.width
    columns = width // 6, width // 2, width - 1 - width // 6
    maps = [receptive_field(model, images, i, j) for j in columns]
    return pictures.grid(np.stack(maps), columns=3, value_range=(0, 1), scale=6)


def draw_in_order(settings: dict, path: Path, model: Model) -> None:
    """The animation of some samples as they are drawn, pixel after pixel."""
    samples = draw(settings, model, 9, "shown")
    scale = max(1, READABLE // max(model.height, model.width))
    with tempfile.TemporaryDirectory() as folder:
        frames = [Path(folder, f"{frame:03d}.png") for frame in range(FRAMES + 1)]
        for frame, pixels in zip(frames, drawing(model, samples, FRAMES), strict=True):
            pictures.save_png(frame, in_grid(settings, pixels, scale=scale))
        pictures.animate(path, frames, seconds=8)


# ----------------------------------------------------------------------------------------- score


def score(settings: dict, run: RunFolder, model: Model, watched: dict[str, np.ndarray]) -> None:
    """The exact likelihood of all watched images and the speed of drawing, in scores.json."""
    dims = watched["held_out"][0].size
    scores = {}
    for prefix, images in {"": watched["held_out"], "train_": watched["train"]}.items():
        per_image = nats_of(model, images)
        mean = float(per_image.mean())
        scores[f"{prefix}images"] = len(images)
        scores[f"{prefix}nats"] = mean
        scores[f"{prefix}standard_error"] = float(per_image.std() / math.sqrt(len(images)))
        scores[f"{prefix}bits_per_dim"] = bits_per_dim(mean, dims)

    cached = seconds_of(lambda: draw(settings, model, SHOWN, "timed"))
    x = watched["held_out"][:1].repeat(SHOWN, 0)
    forward = seconds_of(lambda: nats(model, x))
    scores[f"seconds for {SHOWN} samples"] = cached
    scores["seconds for a forward pass of as many"] = forward
    if settings["naive"]:
        naively = seconds_of(lambda: draw(settings, model, SHOWN, "timed", by=sample_naive))
        scores["seconds without caches"] = naively
    write_json(run.path / "scores.json", {"step": settings["steps"], **scores})
    for name, value in scores.items():
        print(f"{name:>38}: {value:.4g}")
    print(
        f"drawing cost as much as {cached / forward:.1f} forward passes; naively it takes {dims}"
    )


def seconds_of(function: Callable) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(cli.command(main))
