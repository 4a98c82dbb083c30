"""IAF: a variational auto-encoder whose posterior goes through an inverse autoregressive flow.

    python examples/iaf.py                            # clothes, 28 x 28, on the CPU
    python examples/iaf.py --flow none                # the same networks, a Gaussian posterior
    python examples/iaf.py --data mnist               # or a folder of pictures
    python examples/iaf.py --preset paper --device cuda    # on a GPU
    python examples/iaf.py --preset colour            # a small ResNet VAE, emoji 32 x 32
    python examples/iaf.py --preset cifar --device cuda    # the paper's, 20 layers
    python examples/iaf.py --resume                   # go on with the latest run

Kingma et al. 2016 (arXiv 1606.04934), section 6. Flow, networks and bounds:
tinygen/models/iaf.py; the model of colour images: resnet_vae.py beside it. Pixels of grey images
are drawn anew for every batch, 1 with the probability of their grey value ("dynamic"
binarisation): figures in nats compare with others of that kind alone.
What differs from the paper:
- preset "small" has dense networks in place of residual ones, and few steps of training;
- free bits for the latents as one group, where the paper says little about MNIST;
- context (64) and optimizer (Adamax, 2e-3) of the MNIST model are not stated: they are those of
  the authors' code for CIFAR-10;
- preset "colour" is small and short: it restores pictures that it never saw, but what it makes up
  itself are patches of colour, not yet emoji.

What to look for: --flow none and --flow iaf with the same seed. The flow's bound (-elbo) is lower,
and the gap between the bound and the better estimate of -log p by importance sampling shrinks.

The run folder holds samples/ (from the same codes every time), training.gif; drawn with averaged
weights samples.png, reconstructions.png (held-out images, beside each what became of it),
interpolation.png (from one held-out image to another) and kl.png (nats of each latent, in a
resnet of each map and layer); metrics.csv, losses.png, scores.json (for colours in bits per value,
too; and how long samples take) and checkpoint.safetensors. The flow alone, in a plane where it can
be seen: iaf_toy.py.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinygen
from tinygen import Tensor, no_grad, optim
from tinygen import functional as F
from tinygen.data import DataLoader, Dataset, to_float
from tinygen.distributions import binarize, bits_per_dim
from tinygen.models.iaf import (
    IAF,
    FlowVAE,
    conv_networks,
    dense_networks,
    free_bits,
    normalise_weights,
)
from tinygen.models.resnet_vae import ResNetVAE
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, UserError, begin, cli, load_data, pictures
from tinygen.train.files import write_json

PRESETS = {
    "small": {
        "data": "fashion-small",
        "image_size": 28,
        "steps": 4000,
        "batch_size": 100,
        "flow": "iaf",
        "flow_steps": 2,
        "width": 320,
        "network": "dense",
        "latent_dim": 32,
        "context": 64,
        "free_bits": 1.0,
        "lr": 2e-3,
        "average": 0.999,  # decay of the averaged weights, which the figures at the end are about
        "k": 128,
        "sample_every": 250,
    },
    "paper": {
        "data": "mnist",
        "image_size": 28,
        "steps": 300_000,  # 500 epochs of MNIST
        "batch_size": 100,
        "flow": "iaf",
        "flow_steps": 8,
        "width": 1920,
        "network": "conv",
        "latent_dim": 32,
        "context": 64,
        "free_bits": 1.0,
        "lr": 2e-3,
        "average": 0.999,
        "k": 128,
        "sample_every": 2000,
    },
    "colour": {
        "data": "emoji",
        "image_size": 32,
        "steps": 2000,
        "batch_size": 32,
        "flow": "affine",
        "width": 24,
        "network": "resnet",
        "layers": 1,
        "levels": 4,  # the topmost sees the whole picture
        "latent_dim": 8,
        "free_bits": 0.25,
        "lr": 1e-2,  # the default of the authors' code; 2e-3 is slow
        "average": 0.99,  # over the last 100 steps, since there are few
        "k": 8,
        "sample_every": 100,
    },
    "cifar": {
        "data": "cifar10",
        "image_size": 32,
        "steps": 300_000,
        "batch_size": 32,  # on each of the paper's 8 GPUs
        "flow": "affine",
        "width": 160,
        "network": "resnet",
        "layers": 20,
        "levels": 1,
        "latent_dim": 32,
        "free_bits": 0.1,
        "lr": 2e-3,
        "average": 0.999,
        "k": 100,
        "sample_every": 2000,
    },
}
ImageModel = FlowVAE | ResNetVAE
# Samples are drawn at the early steps too: the start is where most happens.
CADENCE = {"log_every": 50, "save_every": 500, "early": (1, 20, 100)}
SHOWN = 64  # samples in a grid
ROUTES, FRAMES = 8, 10  # from one image to another
EVALUATED = 10_000  # held-out images in the final -elbo
SCORED = 1000  # of them in -log p
BOUND_SAMPLES = 4  # of each for -elbo
ROWS = 500  # codes that are decoded at a time
RANGE = (0.0, 1.0)  # of pixels, as probabilities


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    tinygen.manual_seed(settings["seed"])
    training, held_out = load_data(settings)
    loader = DataLoader(
        training,
        settings["batch_size"],
        shuffle=True,
        seed=settings["seed"],
        drop_last=True,
        value_range=RANGE,
    )
    model, architecture = build(settings, training.image_shape)
    model.to(settings["device"])
    if not run.checkpoint.exists():
        pixels = Tensor(loader.batch(0).images).to(settings["device"])
        model.start_from(seen(model, pixels))
    saved = {
        "model": "iaf",
        "config": architecture,
        "parts": {
            "model": model,
            "optimizer": optim.Adamax(model.parameters(), lr=settings["lr"]),
            "average": optim.ExponentialMovingAverage(model.parameters(), settings["average"]),
        },
    }
    done = begin(settings, run, saved)
    print(f"{training}\nwriting to {run.path}")

    train(settings, run, loader, saved, done)
    with saved["parts"]["average"].applied():
        draw_pictures(settings, run, model, held_out)
        if settings["score"]:
            score(settings, run, model, held_out)


def parser() -> cli.Parser:
    parser = cli.Parser("iaf", PRESETS, description=__doc__)
    add = parser.add_argument
    add("--flow", choices=["iaf", "affine", "none"], help="iaf (gated steps), affine or none")
    add("--flow-steps", type=cli.positive(int), help="steps of the flow (2; paper 8)")
    add("--width", type=cli.positive(int), help="hidden units of a step's MADE (320; paper 1920)")
    add("--network", choices=["dense", "conv", "resnet"], help="(dense)")
    add("--layers", type=cli.positive(int), help="layers of latents on a level (1; cifar 20)")
    add("--levels", type=cli.positive(int), help="sizes of maps in a resnet (4; cifar 1)")
    add("--latent-dim", type=cli.positive(int), help="length of a code (32)")
    add("--context", type=cli.positive(int), help="numbers that the encoder tells the flow (64)")
    add("--free-bits", type=not_negative, help="nats of KL that cost nothing in training (1)")
    add("--lr", type=cli.positive(float), help="learning rate (2e-3)")
    add("--average", type=decay, help="decay of the averaged weights, below 1 (0.999)")
    add("--k", type=cli.positive(int), help="samples per image for -log p (128)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (250; 2000)")
    return parser


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below zero, or no number")
    return value


def decay(text: str) -> float:
    value = not_negative(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
    return value


def build(settings: dict, image_shape: tuple[int, int, int]) -> tuple[ImageModel, dict]:
    """The model, with weight norm in every layer, and the settings that its shapes depend on."""
    flow, network, latent_dim = settings["flow"], settings["network"], settings["latent_dim"]
    of_network = ("layers", "levels", "width") if network == "resnet" else ()
    of_flow = ("flow_steps", "width", "context") if not of_network and flow != "none" else ()
    needed = ("network", "flow", "latent_dim", *of_network, *of_flow)
    missing = [name for name in needed if name not in settings]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise UserError(f"--network {network}: preset {settings['preset']} has no {flags}")
    architecture = {"image_shape": list(image_shape), **{name: settings[name] for name in needed}}
    try:
        if network == "resnet":
            model = resnet(settings, image_shape)
        else:
            posterior, context = None, 0
            if flow != "none":
                steps, width, context = (settings[name] for name in of_flow)
                gated = flow == "iaf"
                posterior = IAF(latent_dim, context, steps=steps, width=width, gated=gated)
            networks = dense_networks if network == "dense" else conv_networks
            parts = networks(image_shape, 2 * latent_dim + context, latent_dim)
            model = FlowVAE(*parts, latent_dim, posterior)
    except ValueError as error:
        raise UserError(f"--network {network}: {error}") from error
    normalise_weights(model)
    return model, architecture


def resnet(settings: dict, image_shape: tuple[int, int, int]) -> ResNetVAE:
    if settings["flow"] == "iaf":
        raise UserError("--flow iaf: --network resnet has affine steps, as in the authors' code")
    return ResNetVAE(
        image_shape,
        layers=settings["layers"],
        levels=settings["levels"],
        maps=settings["width"],
        latent_maps=settings["latent_dim"],
        hidden=0 if settings["flow"] == "none" else 2,
    )


def seen(model: ImageModel, pixels: Tensor, numbers: RandomNumbers | None = None) -> Tensor:
    """What the model is shown of pixels in [0, 1]: zeros and ones drawn from them, or they."""
    return binarize(pixels, generator=numbers) if model.binary else pixels


def train(settings: dict, run: RunFolder, loader: DataLoader, saved: dict, done: int) -> None:
    """Maximise the bound, from the step after `done` on. Ctrl-C ends it, after saving."""
    model, device = saved["parts"]["model"], settings["device"]
    if done == 0:
        save_samples(settings, run.sample_path(0), model)

    learn = the_step(settings, **saved["parts"])
    if not settings["eager"]:
        learn = tinygen.capture(learn, device=device)
    with Steps(settings, run, saved, start=done, **CADENCE) as steps:
        batches = loader.batches(done, settings["steps"], device=device)
        for step, (images, _) in zip(steps, batches, strict=False):
            steps.log(learn(Tensor(images)))
            if steps.wants_samples:
                save_samples(settings, run.sample_path(step), model)


def the_step(
    settings: dict,
    model: ImageModel,
    optimizer: optim.Adamax,
    average: optim.ExponentialMovingAverage,
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of grey images, which returns the bound and its two parts."""

    def learn(pixels: Tensor) -> dict[str, Tensor]:
        log_px, kl = model.log_weights(seen(model, pixels))
        loss = free_bits(kl[0], settings["free_bits"]) - log_px.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update()
        log_px, kl = log_px.detach().mean(), kl.detach().sum() / len(pixels)
        return {"-elbo": kl - log_px, "-log p(x|z)": -log_px, "kl": kl}

    return learn


def numbers_for(settings: dict, purpose: str) -> RandomNumbers:
    """Random numbers that are the same in every run of this seed, whatever else was drawn."""
    return RandomNumbers(settings["seed"]).fork(purpose)


def save_samples(settings: dict, path: Path, model: ImageModel) -> None:
    """Probabilities of the pixels for codes from the prior."""
    images = model.sample(SHOWN, generator=numbers_for(settings, "shown")).numpy()
    pictures.save_png(path, pictures.grid(images, value_range=RANGE))


def first(settings: dict, model: ImageModel, held_out: Dataset, n: int) -> Tensor:
    """The first n held-out images as the model sees them, drawn once and for all."""
    pixels = Tensor(to_float(held_out.images[:n], RANGE))
    return seen(model, pixels, numbers_for(settings, "binary")).to(settings["device"])


def draw_pictures(settings: dict, run: RunFolder, model: ImageModel, held_out: Dataset) -> None:
    """The animation over training, what the model makes of codes and of held-out images, and the
    curves of metrics.csv."""
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))
    save_samples(settings, run.path / "samples.png", model)
    x = first(settings, model, held_out, SHOWN // 2)
    again = model.reconstruct(x, generator=numbers_for(settings, "reconstructions"))
    picture = pictures.pairs(x.numpy(), again.numpy(), value_range=RANGE)
    pictures.save_png(run.path / "reconstructions.png", picture)
    draw_interpolation(settings, run, model, x)
    draw_nats(settings, run, model, first(settings, model, held_out, ROWS))
    panels = [["-elbo", "-log p(x|z)"], ["kl"]]
    pictures.plot(run.path / "losses.png", run.read_metrics(), panels)


def draw_interpolation(settings: dict, run: RunFolder, model: ImageModel, x: Tensor) -> None:
    """Row by row from each of some images to the next one."""
    following = F.cat([x[1:], x[:1]])
    numbers = numbers_for(settings, "interpolation")
    frames = model.interpolate(x[:ROUTES], following[:ROUTES], FRAMES, generator=numbers).numpy()
    images = frames.reshape(-1, *x.shape[1:])
    picture = pictures.grid(images, columns=FRAMES, value_range=RANGE)
    pictures.save_png(run.path / "interpolation.png", picture)


def draw_nats(settings: dict, run: RunFolder, model: ImageModel, x: Tensor) -> None:
    """The nats that each latent tells of an image, the largest first, or layer by layer."""
    nats = model.kl_by_latent(x, generator=numbers_for(settings, "nats"))
    of_layers = nats.ndim > 1
    pictures.bars(
        run.path / "kl.png",
        nats if of_layers else np.sort(nats)[::-1],
        title="KL of each map, layer by layer from the top" if of_layers else "KL of each latent",
        xlabel="map" if of_layers else "latent, the largest first",
        ylabel="nats",
    )


def score(settings: dict, run: RunFolder, model: ImageModel, held_out: Dataset) -> None:
    """The bound, its parts, and the estimate of -log p by k samples, in nats: scores.json."""
    k, numbers = settings["k"], numbers_for(settings, "scores")
    x = first(settings, model, held_out, EVALUATED)
    bounds, kls = [], []
    for some in x.split(100):
        with no_grad():
            log_px, kl = model.log_weights(some, BOUND_SAMPLES, generator=numbers)
            kl = kl.reshape(*log_px.shape, -1).sum(axis=2)  # over the groups
        bounds.append((kl - log_px).numpy().mean(0))
        kls.append(kl.numpy().mean(0))
    estimates = -model.log_likelihood(x[:SCORED], k, rows=ROWS, generator=numbers)
    scores = {
        "-elbo": float(np.concatenate(bounds).mean()),
        "kl": float(np.concatenate(kls).mean()),
        "-log p": float(estimates.mean()),
    }
    if not model.binary:
        dims = math.prod(held_out.image_shape)
        scores["bits per value"] = bits_per_dim(scores["-log p"], dims)
    images = {"images": len(x), "images of -log p": len(estimates)}
    about = {"step": settings["steps"], **images, "k": k}
    start = time.perf_counter()
    model.sample(SHOWN, generator=numbers).numpy()
    seconds = {f"seconds for {SHOWN} samples": time.perf_counter() - start}
    write_json(run.path / "scores.json", {**about, **scores, **seconds})
    print(f"{len(x)} held-out images, in nats; -log p by {k} samples of {len(estimates)} of them")
    for name, value in {**scores, **seconds}.items():
        print(f"{name:>22}: {value:.3g}" if name in seconds else f"{name:>22}: {value:.2f}")


if __name__ == "__main__":
    sys.exit(cli.command(main))
