"""IAF: a variational auto-encoder whose posterior goes through an inverse autoregressive flow.

    python examples/iaf.py                            # clothes, 28 x 28, on the CPU
    python examples/iaf.py --flow none                # the same networks, a Gaussian posterior
    python examples/iaf.py --data mnist               # or a folder of pictures
    python examples/iaf.py --preset paper --device cuda    # on a GPU
    python examples/iaf.py --resume                   # go on with the latest run

Kingma et al. 2016 (arXiv 1606.04934), section 6.1. Flow, networks and bounds:
tinygen/models/iaf.py. Pixels are drawn anew for every batch, 1 with the probability of their grey
value ("dynamic" binarisation): figures in nats compare with others of that kind alone.
What differs from the paper:
- preset "small" has dense networks in place of residual ones, and few steps of training;
- free bits for the latents as one group, where the paper says little about MNIST;
- context (64) and optimizer (Adamax, 2e-3) of the MNIST model are not stated: they are those of
  the authors' code for CIFAR-10.

What to look for: --flow none and --flow iaf with the same seed. The flow's bound (-elbo) is lower,
and the gap between the bound and the better estimate of -log p by importance sampling shrinks.

The run folder holds samples/ (from the same codes every time), training.gif, samples.png and
reconstructions.png (held-out images, beside each what became of it; both with averaged weights),
metrics.csv, losses.png, scores.json and checkpoint.safetensors.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinygen
from tinygen import Tensor, no_grad, optim
from tinygen.data import DATASETS, DataLoader, Dataset, load, to_float
from tinygen.distributions import binarize
from tinygen.models.iaf import (
    IAF,
    FlowVAE,
    conv_networks,
    dense_networks,
    free_bits,
    normalise_weights,
)
from tinygen.random import Generator as RandomNumbers
from tinygen.train import (
    Progress,
    RunFolder,
    Stopped,
    UserError,
    check_finite,
    checkpoint,
    cli,
    pictures,
)
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
        "k": 128,
        "sample_every": 2000,
    },
}
AVERAGED = 0.999  # decay of the averaged weights, which all figures at the end are about
EARLY = (1, 20, 100)  # samples are drawn at these steps too: the start is where most happens
LOG_EVERY = 50
SAVE_EVERY = 500
SHOWN = 64  # samples in a grid
SCORED = 500  # held-out images that the scores are computed from
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
    architecture = {
        "image_shape": list(training.image_shape),
        **{name: settings[name] for name in ("network", "flow", "latent_dim")},
    }
    if settings["flow"] != "none":
        architecture |= {name: settings[name] for name in ("flow_steps", "width", "context")}
    model = build(**architecture).to(settings["device"])
    resumed = run.checkpoint.exists()
    if not resumed:
        pixels = Tensor(loader.batch(0).images).to(settings["device"])
        model.start_from(binarize(pixels))
    saved = {
        "model": "iaf",
        "config": architecture,
        "parts": {
            "model": model,
            "optimizer": optim.Adamax(model.parameters(), lr=settings["lr"]),
            "average": optim.ExponentialMovingAverage(model.parameters(), AVERAGED),
        },
    }
    done = checkpoint.load(run.checkpoint, **saved) if resumed else 0
    if settings["steps"] < done:
        raise UserError(f"--steps {settings['steps']}: {run.path} is at step {done} already")
    run.start(settings)
    run.forget_after(done)
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
    add("--network", choices=["dense", "conv"], help="encoder and decoder (dense; paper conv)")
    add("--latent-dim", type=cli.positive(int), help="length of a code (32)")
    add("--context", type=cli.positive(int), help="numbers that the encoder tells the flow (64)")
    add("--free-bits", type=not_negative, help="nats of KL that cost nothing in training (1)")
    add("--lr", type=cli.positive(float), help="learning rate (2e-3)")
    add("--k", type=cli.positive(int), help="samples per image for -log p (128)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (250; 2000)")
    return parser


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below zero, or no number")
    return value


def load_data(settings: dict) -> tuple[Dataset, Dataset]:
    """The images to train on, and those that the scores are about."""
    name, size = settings["data"], settings["image_size"]
    training = load(name, image_size=size)
    splits = DATASETS[name].splits if name in DATASETS else ()
    for split in ("test", "validation"):
        if split in splits:
            held_out = load(name, split=split, image_size=size)
            break
    else:  # the user's own pictures: every tenth
        others = np.arange(len(training)) % 10 == 9
        training, held_out = training.take(~others), training.take(others)
    if not len(held_out) or settings["batch_size"] > len(training):
        raise UserError(
            f"--batch-size {settings['batch_size']}: {name} has {len(training)} images to train "
            f"on and {len(held_out)} to score"
        )
    return training, held_out


def build(
    image_shape: Sequence[int],
    network: str,
    flow: str,
    latent_dim: int,
    flow_steps: int = 0,
    width: int = 0,
    context: int = 0,
) -> FlowVAE:
    """The model of these settings, with weight norm in every layer."""
    networks = dense_networks if network == "dense" else conv_networks
    posterior = None
    if flow != "none":
        gated = flow == "iaf"
        posterior = IAF(latent_dim, context, steps=flow_steps, width=width, gated=gated)
    try:
        parts = networks(tuple(image_shape), 2 * latent_dim + context, latent_dim)
    except ValueError as error:
        raise UserError(f"--image-size, --data: {error}") from error
    model = FlowVAE(*parts, latent_dim, posterior)
    normalise_weights(model)
    return model


def train(settings: dict, run: RunFolder, loader: DataLoader, saved: dict, done: int) -> None:
    """Maximise the bound, from the step after `done` on. Ctrl-C ends it, after saving."""
    model = saved["parts"]["model"]
    device, steps = settings["device"], settings["steps"]
    if done == 0:
        save_samples(settings, run.sample_path(0), model)

    learn = the_step(settings, **saved["parts"])
    if not settings["eager"]:
        learn = tinygen.capture(learn, device=device)
    progress = Progress(steps, batch_size=settings["batch_size"], start=done)
    with cli.CtrlC() as ctrl_c:
        batches = loader.batches(done, steps, device=device)
        for step, (images, _) in zip(progress, batches, strict=False):
            outcome = learn(Tensor(images))
            # Reading a number waits for the GPU, so it is done every few steps only.
            if step % LOG_EVERY == 0 or step == steps or ctrl_c.pressed:
                numbers = {name: value.item() for name, value in outcome.items()}
                check_finite(step, numbers)
            if step % LOG_EVERY == 0 or step == steps:
                progress.show(numbers)
                run.log(step, numbers, progress.images_per_second)
            if step in EARLY or step % settings["sample_every"] == 0 or step == steps:
                save_samples(settings, run.sample_path(step), model)
            if step % SAVE_EVERY == 0 or step == steps or ctrl_c.pressed:
                checkpoint.save(run.checkpoint, step=step, **saved)
            if ctrl_c.pressed and step < steps:
                raise Stopped(
                    f"stopped after step {step} of {steps}; go on with: "
                    f"python {sys.argv[0]} --resume --out {shlex.quote(str(run.path))}"
                )


def the_step(
    settings: dict,
    model: FlowVAE,
    optimizer: optim.Adamax,
    average: optim.ExponentialMovingAverage,
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of grey images, which returns the bound and its two parts."""

    def learn(pixels: Tensor) -> dict[str, Tensor]:
        log_px, kl = model.log_weights(binarize(pixels))
        loss = free_bits(kl[0], settings["free_bits"]) - log_px.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update()
        log_px, kl = log_px.detach().mean(), kl.detach().mean()
        return {"-elbo": kl - log_px, "-log p(x|z)": -log_px, "kl": kl}

    return learn


def numbers_for(settings: dict, purpose: str) -> RandomNumbers:
    """Random numbers that are the same in every run of this seed, whatever else was drawn."""
    return RandomNumbers(settings["seed"]).fork(purpose)


def save_samples(settings: dict, path: Path, model: FlowVAE) -> None:
    """Probabilities of the pixels for codes from the prior."""
    images = model.sample(SHOWN, generator=numbers_for(settings, "shown")).numpy()
    pictures.save_png(path, pictures.grid(images, value_range=RANGE))


def binary(settings: dict, held_out: Dataset, n: int) -> Tensor:
    """The first n held-out images, with pixels drawn once and for all, on the device."""
    pixels = to_float(held_out.images[:n], RANGE)
    return binarize(pixels, generator=numbers_for(settings, "binary")).to(settings["device"])


def draw_pictures(settings: dict, run: RunFolder, model: FlowVAE, held_out: Dataset) -> None:
    """The animation over training, samples, reconstructions, and the curves of metrics.csv."""
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))
    save_samples(settings, run.path / "samples.png", model)
    x = binary(settings, held_out, SHOWN // 2)
    again = model.reconstruct(x, generator=numbers_for(settings, "reconstructions"))
    picture = pictures.pairs(x.numpy(), again.numpy(), value_range=RANGE)
    pictures.save_png(run.path / "reconstructions.png", picture)
    panels = [["-elbo", "-log p(x|z)"], ["kl"]]
    pictures.plot(run.path / "losses.png", run.read_metrics(), panels)


def score(settings: dict, run: RunFolder, model: FlowVAE, held_out: Dataset) -> None:
    """The bound, its parts, and the estimate of -log p by k samples, in nats: scores.json."""
    k, numbers = settings["k"], numbers_for(settings, "scores")
    bounds, kls, estimates = [], [], []
    for x in binary(settings, held_out, SCORED).split(100):
        with no_grad():
            log_px, kl = model.log_weights(x, 10, generator=numbers)
        bounds.append((kl - log_px).numpy().mean(0))
        kls.append(kl.numpy().mean(0))
        estimates.append(-model.log_likelihood(x, k, generator=numbers))
    scores = {
        "-elbo": float(np.concatenate(bounds).mean()),
        "kl": float(np.concatenate(kls).mean()),
        "-log p": float(np.concatenate(estimates).mean()),
    }
    about = {"step": settings["steps"], "images": min(SCORED, len(held_out)), "k": k}
    write_json(run.path / "scores.json", {**about, **scores})
    print(f"{about['images']} held-out images, in nats; -log p by {k} samples")
    for name, value in scores.items():
        print(f"{name:>10}: {value:.2f}")


if __name__ == "__main__":
    sys.exit(cli.command(main))
