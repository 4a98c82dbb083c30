"""DCGAN: two networks against each other, until one draws pictures that the other takes for real.

    python examples/dcgan.py                                  # clothes, 28 x 28, on the CPU
    python examples/dcgan.py --data mnist                     # or emoji, cifar10, celeba, a folder
    python examples/dcgan.py --preset paper --data celeba --device cuda    # on a GPU
    python examples/dcgan.py --resume                         # go on with the latest run

Radford, Metz & Chintala 2015 (arXiv 1511.06434). Networks and losses: tinygen/models/dcgan.py.
What differs from the paper:
- kernels of 4 x 4 in place of 5 x 5, which overlap evenly at stride 2;
- G and D both learn from every batch, in the authors' code they take turns;
- preset "small" has a hidden dense layer in both networks and a larger learning rate for G: at
  28 x 28 that is what gives legible samples within minutes.

What to look for: loss_d near 1.25 and loss_g near 0.8, D(x) and D(G(z)) a little above and below
one half. A loss_d that falls to 0 means that D has won and G learns nothing any more. The losses
do not say how good the pictures are; the scores at the end do.

The run folder holds samples/ (from the same codes every time), training.gif, walk.png (from code
to code), neighbours.png (samples beside the training image nearest to each), metrics.csv,
losses.png, scores.json and checkpoint.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

import tinygen
from tinygen import Tensor, metrics, no_grad, optim
from tinygen.data import DATASETS, DataLoader, Dataset, load, to_float
from tinygen.models.dcgan import (
    SMALLEST,
    Discriminator,
    Generator,
    discriminator_loss,
    generator_loss,
    interpolate,
    sample_codes,
)
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, UserError, begin, cli, pictures
from tinygen.train.files import write_json

PRESETS = {
    "small": {
        "data": "fashion-small",
        "image_size": None,  # 28 for the sets that are, else 32
        "steps": 3000,
        "batch_size": 128,
        "latent_dim": 100,
        "prior": "uniform",
        "width": 32,
        "hidden": 256,
        "lr_d": 2e-4,
        "lr_g": 1e-3,
        "sample_every": 100,
    },
    "paper": {
        "data": "emoji",
        "image_size": 64,
        "steps": 40_000,  # 25 epochs of CelebA
        "batch_size": 128,
        "latent_dim": 100,
        "prior": "uniform",
        "width": 64,
        "hidden": None,
        "lr_d": 2e-4,
        "lr_g": 2e-4,
        "sample_every": 500,
    },
}
BETAS = (0.5, 0.999)  # the paper's: with Adam's usual 0.9 the two oscillate
# Samples are drawn at the early steps too: the start is where most happens.
CADENCE = {"log_every": 10, "save_every": 250, "early": (1, 20, 50)}
SHOWN = 64  # samples in a grid
SCORED = 10_000  # samples that the scores are computed from


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    tinygen.manual_seed(settings["seed"])
    training, held_out = load_data(settings)
    channels, image_size, _ = training.image_shape
    architecture = {
        "image_size": image_size,
        "channels": channels,
        "width": settings["width"],
        "hidden": settings["hidden"],
    }
    G = Generator(settings["latent_dim"], **architecture).to(settings["device"])
    D = Discriminator(**architecture).to(settings["device"])
    saved = {
        "model": "dcgan",
        "config": {**architecture, "latent_dim": settings["latent_dim"]},
        "parts": {
            "generator": G,
            "discriminator": D,
            "optimizer_g": optim.Adam(G.parameters(), lr=settings["lr_g"], betas=BETAS),
            "optimizer_d": optim.Adam(D.parameters(), lr=settings["lr_d"], betas=BETAS),
        },
    }
    done = begin(settings, run, saved)
    print(f"{training}\nwriting to {run.path}")

    train(settings, run, training, saved, done)
    draw_pictures(settings, run, G)
    if settings["score"]:
        score(settings, run, G, training, held_out)


def parser() -> cli.Parser:
    parser = cli.Parser("dcgan", PRESETS, description=__doc__)
    add = parser.add_argument
    add("--latent-dim", type=cli.positive(int), help="length of a code (100)")
    add("--prior", choices=["uniform", "normal"], help="distribution of the codes (uniform)")
    add("--width", type=cli.positive(int), help="maps at half the image's size (32; paper 64)")
    add("--lr-d", type=cli.positive(float), help="learning rate of D (2e-4)")
    add("--lr-g", type=cli.positive(float), help="learning rate of G (1e-3; paper 2e-4)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (100; 500)")
    return parser


def load_data(settings: dict) -> tuple[Dataset, Dataset | None]:
    """The images to train on, and those that were held out, if there are any."""
    name = settings["data"]
    like_mnist = name in ("fashion-small", "fashion-mnist", "mnist")
    size = settings["image_size"] or (28 if like_mnist else 32)
    if size < SMALLEST:
        raise UserError(f"--image-size {size}: DCGAN needs images of at least {SMALLEST} pixels")
    training = load(name, image_size=size)
    if not 2 <= settings["batch_size"] <= len(training):
        raise UserError(
            f"--batch-size {settings['batch_size']}: batch norm needs at least 2 images, "
            f"and {name} has {len(training)}"
        )
    splits = DATASETS[name].splits if name in DATASETS else ()
    for split in ("test", "validation"):
        if split in splits:
            return training, load(name, split=split, image_size=size)
    return training, None


def train(settings: dict, run: RunFolder, data: Dataset, saved: dict, done: int) -> None:
    """The game, from the step after `done` on. Ctrl-C ends it, after saving, with `Stopped`."""
    G, device = saved["parts"]["generator"], settings["device"]
    options = {"shuffle": True, "seed": settings["seed"], "drop_last": True}
    loader = DataLoader(data, settings["batch_size"], **options)
    shown = codes(settings, SHOWN, "shown")
    if done == 0:
        save_samples(run, 0, G, shown)

    play = the_game(settings, **saved["parts"])
    if not settings["eager"]:
        play = tinygen.capture(play, device=device)
    with Steps(settings, run, saved, start=done, **CADENCE) as steps:
        batches = loader.batches(done, settings["steps"], device=device)
        for step, (images, _) in zip(steps, batches, strict=False):
            steps.log(play(Tensor(images)))
            if steps.wants_samples:
                save_samples(run, step, G, shown)


def the_game(
    settings: dict,
    generator: Generator,
    discriminator: Discriminator,
    optimizer_g: optim.Adam,
    optimizer_d: optim.Adam,
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of real images, which returns the losses and D's beliefs."""
    G, D = generator, discriminator
    latent_dim, prior, device = settings["latent_dim"], settings["prior"], settings["device"]

    def play(x: Tensor) -> dict[str, Tensor]:
        z = sample_codes(len(x), latent_dim, prior, device=device)
        fake = G(z)

        # D learns to tell them apart. Two batches, not one: batch norm sees each by itself.
        # Detached: D's mistakes are not G's business yet.
        real_logits, fake_logits = D(x), D(fake.detach())
        loss_d = discriminator_loss(real_logits, fake_logits)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        # G learns to be taken for real. The gradient passes through D, whose weights stay.
        D.requires_grad_(False)
        loss_g = generator_loss(D(fake))
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        D.requires_grad_(True)

        return {
            "loss_d": loss_d,
            "loss_g": loss_g,
            "D(x)": real_logits.detach().sigmoid().mean(),
            "D(G(z))": fake_logits.detach().sigmoid().mean(),
        }

    return play


def codes(settings: dict, n: int, purpose: str) -> Tensor:
    """n codes that are the same in every run of this seed, whatever else was drawn."""
    numbers = RandomNumbers(settings["seed"]).fork(purpose)
    return sample_codes(n, settings["latent_dim"], settings["prior"], numbers)


def generate(G: Generator, z: Tensor) -> np.ndarray:
    """Images (N, C, H, W) of the codes. Batch norm takes its running statistics, not the batch's,
    so that an image depends on its code alone.

    They lag behind early on: in one run on the default set, the Fréchet distance was 18.3 against
    16.8 by the batch's statistics after 500 steps, 6.0 against 6.3 after 1,500.
    """
    device = next(G.parameters()).device
    G.eval()
    with no_grad():
        parts = [G(part.to(device)).numpy() for part in z.split(500)]
    G.train()
    return np.concatenate(parts)


def save_samples(run: RunFolder, step: int, G: Generator, z: Tensor) -> None:
    pictures.save_png(run.sample_path(step), pictures.grid(generate(G, z)))


def draw_pictures(settings: dict, run: RunFolder, G: Generator) -> None:
    """The animation over training, the walk from code to code, and the curves of metrics.csv."""
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))

    # Nine codes, and nine steps from each to the next: one row of pictures per pair.
    stations = codes(settings, 9, "walk").numpy()
    rows = [interpolate(start, end, 10, settings["prior"]) for start, end in pairwise(stations)]
    walk = generate(G, Tensor(np.concatenate(rows)))
    pictures.save_png(run.path / "walk.png", pictures.grid(walk, columns=10))

    panels = [["loss_d", "loss_g"], ["D(x)", "D(G(z))"]]
    pictures.plot(run.path / "losses.png", run.read_metrics(), panels)


def score(
    settings: dict, run: RunFolder, G: Generator, training: Dataset, held_out: Dataset | None
) -> None:
    """Scores of the samples, written to scores.json; each nearest training image beside them."""
    net = metrics.feature_net(training, held_out)
    samples = generate(G, codes(settings, SCORED, "scored"))
    scores = metrics.score_samples(samples, training, held_out, net)
    write_json(run.path / "scores.json", {"step": settings["steps"], **scores})
    for name, value in scores.items():
        print(f"{name:>28}: {value:.4g}")

    some = samples[:32]
    nearest, _ = metrics.nearest_neighbours(pictures.to_uint8(some), training.images)
    beside = to_float(training.images[nearest])
    pictures.save_png(run.path / "neighbours.png", pictures.pairs(some, beside))


if __name__ == "__main__":
    sys.exit(cli.command(main))
