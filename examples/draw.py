"""DRAW: a VAE that paints its pictures stroke by stroke, looking where it wants to.

    python examples/draw.py                                   # clothes, 28 x 28, on the CPU
    python examples/draw.py --data mnist                      # or emoji, a folder, ...
    python examples/draw.py --no-attention                    # read and write the whole picture
    python examples/draw.py --preset paper --device cuda      # on a GPU
    python examples/draw.py --resume                          # go on with the latest run

Gregor, Danihelka, Graves, Rezende & Wierstra 2015 (arXiv 1502.04623). Network and bound:
tinygen/models/draw.py. Pixels are binarised anew for every batch, 1 with their brightness as the
probability (colours, channel by channel). What differs from the paper:
- preset "small" takes 10 glimpses through large windows and 10 latents each, the paper 64 glimpses
  through small ones and 100 latents;
- the training images are binarised dynamically, its table is of MNIST binarised once;
- the first canvas starts as the mean image, the learning rate falls along half a cosine to 0 (more
  --steps stretch it), and gradients are clipped.

What to look for: minus_elbo, in nats, falls from what the mean image alone gives; kl, the part of
it that the codes cost, rises from 0 while the strokes learn to mean something. A kl that stays
at 0 means that the canvas ignores its codes. Coarse windows learn slower: on digits, 500 steps
took windows of 12 × 12 to 108.0 nats, of 5 × 5 to 124.1 (seed 0, 1,000 images held out of
training).

The run folder holds samples/ (from the same codes every time), training.gif, drawing.gif and
drawing.png (samples stroke by stroke, the window written to in red), reading.png (held-out images
with the window read from in green, above what was painted), reconstructions.png, metrics.csv,
losses.png, scores.json (-ELBO of the held-out images) and checkpoint.safetensors.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinygen
from tinygen import Tensor, nn, no_grad, optim
from tinygen.data import DataLoader, Dataset, to_float
from tinygen.distributions import binarize
from tinygen.models.draw import DRAW, Glimpse, place
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, begin, cli, load_data, pictures
from tinygen.train.files import write_json

PRESETS = {
    "small": {
        "data": "fashion-small",
        "image_size": None,  # 28 for the sets that are, else 32
        "steps": 1500,
        "batch_size": 100,
        "glimpses": 10,
        "latent_dim": 10,
        "hidden": 256,
        "attention": True,
        "read": 12,
        "write": 12,
        "lr": 3e-3,
        "sample_every": 100,
    },
    "paper": {
        "data": "mnist",
        "image_size": None,
        "steps": 60_000,  # 128 epochs
        "batch_size": 128,
        "glimpses": 64,
        "latent_dim": 100,
        "hidden": 256,
        "attention": True,
        "read": 2,
        "write": 5,
        "lr": 3e-4,
        "sample_every": 1000,
    },
}
CLIP = 10.0  # largest norm of a gradient: those through T canvases can be a hundred times longer
# Samples are drawn at the early steps too: the start is where most happens.
CADENCE = {"log_every": 10, "save_every": 250, "early": (1, 20, 50)}
SHOWN = 64  # samples in a grid
ROWS = 8  # pictures that are shown stroke by stroke
SCALE = 4  # pixels of a picture with windows for one of the image
RED, GREEN = (1.0, 0.1, 0.1), (0.1, 0.9, 0.2)
PIXELS = (0.0, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    tinygen.manual_seed(settings["seed"])
    training, held_out = load_data(settings)
    architecture = {
        "image_shape": list(training.image_shape),
        "steps": settings["glimpses"],
        "latent_dim": settings["latent_dim"],
        "hidden": settings["hidden"],
        "read": settings["read"] if settings["attention"] else None,
        "write": settings["write"] if settings["attention"] else None,
    }
    model = DRAW(**architecture).to(settings["device"])
    optimizer = optim.Adam(model.parameters(), lr=settings["lr"])
    saved = {
        "model": "draw",
        "config": architecture,
        "parts": {
            "model": model,
            "optimizer": optimizer,
            "schedule": optim.lr_scheduler.CosineAnnealingLR(optimizer, settings["steps"]),
        },
    }
    done = begin(settings, run, saved)
    if done == 0:
        model.start_from(training.images.mean(axis=0) / 255)
    print(f"{training}\nwriting to {run.path}")

    train(settings, run, training, saved, done)
    draw_pictures(settings, run, model, held_out)
    if settings["score"]:
        score(settings, run, model, held_out)


def parser() -> cli.Parser:
    parser = cli.Parser("draw", PRESETS, description=__doc__)
    add = parser.add_argument
    add("--glimpses", type=cli.positive(int), help="T, how often it looks and writes (10; 64)")
    add("--latent-dim", type=cli.positive(int), help="length of a code, T of them (10; paper 100)")
    add("--hidden", type=cli.positive(int), help="units of either LSTM (256)")
    add(
        "--no-attention",
        dest="attention",
        action="store_false",
        help="read and write whole pictures",
    )
    add("--read", type=cli.positive(int), help="filters to a side, to read with (12; paper 2)")
    add("--write", type=cli.positive(int), help="filters to a side, to write with (12; paper 5)")
    add("--lr", type=cli.positive(float), help="learning rate at the start (3e-3; paper 3e-4)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (100; 1000)")
    return parser


def train(settings: dict, run: RunFolder, data: Dataset, saved: dict, done: int) -> None:
    """Raise the bound, from the step after `done` on. Ctrl-C ends it, after saving."""
    model, optimizer, schedule = saved["parts"].values()
    device = settings["device"]
    options = {"shuffle": True, "seed": settings["seed"], "drop_last": True}
    loader = DataLoader(data, settings["batch_size"], value_range=PIXELS, **options)
    if done == 0:
        save_samples(settings, run, 0, model)

    learn = the_step(model, optimizer)
    if not settings["eager"]:
        learn = tinygen.capture(learn, device=device)
    with Steps(settings, run, saved, start=done, **CADENCE) as steps:
        batches = loader.batches(done, settings["steps"], device=device)
        for step, (images, _) in zip(steps, batches, strict=False):
            steps.log(learn(Tensor(images)))
            schedule.step()
            if steps.wants_samples:
                save_samples(settings, run, step, model)


def the_step(model: DRAW, optimizer: optim.Adam) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of grey images, which returns the bound and its two parts."""

    def learn(images: Tensor) -> dict[str, Tensor]:
        minus_log_p, kl = model(binarize(images))
        # In the sum over pixels, codes and glimpses; the mean over images.
        reconstruction, kl = minus_log_p.mean(), kl.sum(0).mean()
        minus_elbo = reconstruction + kl
        optimizer.zero_grad()
        minus_elbo.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return {"minus_elbo": minus_elbo, "reconstruction": reconstruction, "kl": kl}

    return learn


def numbers_for(settings: dict, purpose: str) -> RandomNumbers:
    """Random numbers that are the same in every run of this seed, whatever else was drawn."""
    return RandomNumbers(settings["seed"]).fork(purpose)


def sample(settings: dict, model: DRAW, n: int) -> list[Glimpse]:
    """n new pictures, stroke by stroke."""
    size = settings["glimpses"], n, settings["latent_dim"]
    codes = Tensor(numbers_for(settings, "shown").normal(size)).to(settings["device"])
    with no_grad():
        return list(model.draw(codes))


def probabilities(glimpse: Glimpse) -> np.ndarray:
    """The canvas as grey values in [0, 1]: of binary pixels the chance to be white."""
    return glimpse.canvas.sigmoid().numpy()


def save_samples(settings: dict, run: RunFolder, step: int, model: DRAW) -> None:
    images = probabilities(sample(settings, model, SHOWN)[-1])
    pictures.save_png(run.sample_path(step), pictures.grid(images, value_range=PIXELS))


# ----------------------------------------------------------------------------------- at the end


def draw_pictures(settings: dict, run: RunFolder, model: DRAW, held_out: Dataset) -> None:
    """The animations over training and over the strokes, what was read, and the curves."""
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))

    strokes = [written(settings, glimpse) for glimpse in sample(settings, model, 36)]
    with tempfile.TemporaryDirectory() as folder:
        frames = [Path(folder, f"{t:04d}.png") for t in range(len(strokes))]
        for frame, stroke in zip(frames, strokes, strict=True):
            pictures.save_png(frame, tiled(stroke, columns=6))
        pictures.animate(run.path / "drawing.gif", frames, seconds=0.3 * len(frames))
    pictures.save_png(run.path / "drawing.png", strip([s[:ROWS] for s in strokes]))

    x = binarized(settings, held_out)[:SHOWN]
    painted = paint_after(settings, model, x)
    beside = pictures.pairs(x, probabilities(painted[-1]), value_range=PIXELS)
    pictures.save_png(run.path / "reconstructions.png", beside)
    pairs = []  # at each step: an image and its canvas, the next image and its canvas, ...
    for glimpse in painted:
        read = framed(x, glimpse.read, settings["read"], GREEN)
        pair = np.stack([read, written(settings, glimpse)], 1)
        pairs.append(pair[: ROWS // 2].reshape(-1, *read.shape[1:]))
    pictures.save_png(run.path / "reading.png", strip(pairs))

    panels = [["minus_elbo", "reconstruction"], ["kl"]]
    pictures.plot(run.path / "losses.png", run.read_metrics(), panels)


def written(settings: dict, glimpse: Glimpse) -> np.ndarray:
    """The canvases with the windows that were just written to."""
    return framed(probabilities(glimpse), glimpse.write, settings["write"], RED)


def strip(strokes: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (ROWS, 3, H, W) of each of the T steps: time runs from left to right."""
    chosen = np.linspace(0, len(strokes) - 1, min(len(strokes), 16)).round().astype(int)
    columns = [strokes[t] for t in chosen]
    return tiled(np.stack(columns, 1).reshape(-1, *strokes[0].shape[1:]), columns=len(columns))


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
    return pictures.grid(images, columns=columns, value_range=PIXELS, scale=1)


def framed(
    images: np.ndarray, window: Tensor | None, size: int, colour: tuple[float, float, float]
) -> np.ndarray:
    """Images (N, C, H, W), enlarged and in colour, with the outline of a window's grid of filters.

    All pixels that hold a filter's centre lie inside. Without attention there is no window.
    """
    large = images.repeat(SCALE, 2).repeat(SCALE, 3).repeat(3 // images.shape[1], 1)
    if window is None:
        return large
    x, y, stride = place(window, size, *images.shape[2:])
    half = (size - 1) / 2 * stride
    left, right = _edges(x, half, large.shape[3])
    top, bottom = _edges(y, half, large.shape[2])
    for i, picture in enumerate(large):
        box = picture[:, top[i] : bottom[i] + 1, left[i] : right[i] + 1]
        inside = box[:, 2:-2, 2:-2].copy()
        box[...] = np.array(colour)[:, None, None]
        box[:, 2:-2, 2:-2] = inside
    return large


def _edges(centre: np.ndarray, half: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and last pixel of a window in the large picture, as far as it lies inside."""
    ends = (centre - half) * SCALE, (centre + half + 1) * SCALE - 1
    return tuple(end.clip(0, length - 1).astype(int) for end in ends)


def binarized(settings: dict, data: Dataset) -> np.ndarray:
    """All images as zeros and ones, binarised once: the same in every run of this seed."""
    grey = to_float(data.images, PIXELS)
    return binarize(grey, generator=numbers_for(settings, "binarised")).numpy()


def paint_after(settings: dict, model: DRAW, x: np.ndarray) -> list[Glimpse]:
    size = settings["glimpses"], len(x), settings["latent_dim"]
    noise = numbers_for(settings, "noise").normal(size)
    with no_grad():
        return list(model.look(*(Tensor(a).to(settings["device"]) for a in (x, noise))))


def score(settings: dict, run: RunFolder, model: DRAW, held_out: Dataset) -> None:
    """-ELBO of the held-out images, one sample of the codes each, in nats per image."""
    numbers, parts = numbers_for(settings, "scored"), []
    x = binarized(settings, held_out)
    with no_grad():
        for first in range(0, len(x), 500):
            some = Tensor(x[first : first + 500]).to(settings["device"])
            noise = numbers.normal((settings["glimpses"], len(some), settings["latent_dim"]))
            minus_log_p, kl = model(some, Tensor(noise).to(settings["device"]))
            parts.append(np.vstack([minus_log_p.numpy(), kl.numpy()]))
    reconstruction, *kl = np.concatenate(parts, 1).mean(1).astype(float).tolist()
    scores = {
        "minus_elbo": reconstruction + sum(kl),
        "reconstruction": reconstruction,
        "kl": sum(kl),
        "kl_of_each_glimpse": kl,
    }
    write_json(run.path / "scores.json", {"step": settings["steps"], "images": len(x), **scores})
    for name in ("minus_elbo", "reconstruction", "kl"):
        print(f"{name:>28}: {scores[name]:.4g}")


if __name__ == "__main__":
    sys.exit(cli.command(main))
