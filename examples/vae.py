"""VAE: a network that writes an image as a few numbers, and one that draws it from them.

    python examples/vae.py                                  # clothes, 28 x 28, on the CPU
    python examples/vae.py --latent-dim 2                   # and a map of all its images
    python examples/vae.py --preset paper                   # MNIST, 50 epochs
    python examples/vae.py --preset iwae --k 5 --device cuda    # importance-weighted
    python examples/vae.py --resume                         # go on with the latest run

Kingma & Welling 2013 (arXiv 1312.6114); Burda et al. 2015 (arXiv 1509.00519) for --k above 1.
Networks and bounds: tinygen/models/vae.py. What differs from the paper:
- Adam in place of Adagrad, which needs many more epochs;
- no prior on the weights;
- the output's bias starts at the mean image, as in the code of Burda et al.

Pixels are zeros and ones: a grey value is the probability of a one, drawn anew for every batch
(--binarize dynamic) or once (static). That makes -ELBO and -log p likelihoods, in nats per image;
figures of two data sets, or of two ways to binarise, can't be compared.

What to look for: kl (the information in a code) grows from 0 to some 15 to 25 nats while recon
falls. A kl near 0 means that the decoder ignores the code; held_out rising while loss falls means
that the training set is being learnt by heart.

The run folder holds samples/ (from the same codes every time), training.gif, reconstructions.png,
interpolation.png (from image to image), denoising.png, inpainting.png, kl.png (nats per latent),
metrics.csv, losses.png, scores.json, checkpoint.safetensors, and with two latents manifold.png
and codes.png.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtri

import tinygen
from tinygen import Tensor, no_grad, optim
from tinygen.data import DataLoader, Dataset, to_float
from tinygen.distributions import binarize
from tinygen.models.dcgan import interpolate
from tinygen.models.vae import ACTIVATIONS, NETS, VAE, objective
from tinygen.random import Generator as RandomNumbers
from tinygen.train import RunFolder, Steps, UserError, begin, cli, load_data, pictures
from tinygen.train.files import replacing, write_json

SMALL = {
    "data": "fashion-small",
    "image_size": None,  # 28 for the sets that are, else 32
    "binarize": "dynamic",
    "steps": 6000,
    "batch_size": 100,
    "net": "mlp",
    "hidden": [500],
    "latent_dim": 20,
    "activation": "tanh",
    "width": 32,
    "beta": 1.0,
    "k": 1,
    "lr": 1e-3,
    "half_life": None,
    "sample_every": 200,
    "score_k": 1000,
    "score_images": 500,
}
PAPER = {**SMALL, "data": "mnist", "steps": 30_000, "sample_every": 1000, "score_k": 5000,
         "score_images": 1000}  # fmt: skip
PRESETS = {
    "small": SMALL,
    "paper": PAPER,  # 50 epochs
    "iwae": {  # 150 epochs, lr from 1e-3 to 1e-4
        **PAPER,
        "steps": 90_000,
        "hidden": [200, 200],
        "latent_dim": 50,
        "half_life": 27_000,
    },
    "conv": {**PAPER, "steps": 9000, "net": "conv", "hidden": [256], "activation": "elu"},
}
# Samples are drawn at the early steps too: the start is where most happens.
CADENCE = {"log_every": 50, "save_every": 500, "early": (1, 20, 50, 100)}
SHOWN = 100  # samples in a grid
WATCHED = 500  # held-out images whose bound is followed during training
EVALUATED = 10_000  # held-out images in the final -ELBO
ROUNDS = 50  # through the code, to fill in missing pixels
ROWS = 2000  # images that go through a network at a time, where nothing is learnt


def main(argv: Sequence[str] | None = None) -> None:
    settings, run = parser().parse(argv)
    if settings["k"] > 1 and settings["beta"] != 1:
        raise UserError(f"--beta {settings['beta']}: it has no meaning with --k {settings['k']}")
    tinygen.manual_seed(settings["seed"])
    training, held_out = load_data(settings)
    if settings["binarize"] == "static":
        training = fixed_draw(training, RandomNumbers(settings["seed"]).fork("static"))
    architecture = {
        "image_shape": list(training.image_shape),
        **{
            name: settings[name] for name in ("latent_dim", "net", "hidden", "activation", "width")
        },
    }
    vae = build(architecture).to(settings["device"])
    optimizer = optim.Adam(vae.parameters(), lr=settings["lr"])
    decay = 0.5 ** (1 / settings["half_life"]) if settings["half_life"] else 1.0
    saved = {
        "model": "vae",
        "config": architecture,
        "parts": {
            "vae": vae,
            "optimizer": optimizer,
            "schedule": optim.lr_scheduler.ExponentialLR(optimizer, decay),
        },
    }
    done = begin(settings, run, saved)
    if done == 0:
        vae.start_from(training.images.mean(axis=0) / 255)
    print(f"{training}\nwriting to {run.path}")

    x = test_images(settings, held_out)
    train(settings, run, training, x, saved, done)
    draw_pictures(settings, run, vae, x, held_out)
    if settings["score"]:
        score(settings, run, vae, x)


def parser() -> cli.Parser:
    parser = cli.Parser("vae", PRESETS, description=__doc__)
    add = parser.add_argument
    add("--net", choices=NETS, help="dense layers or convolutions (mlp)")
    add("--hidden", type=sizes, help='units of the hidden layers, "500" or "200,200" (500)')
    add("--latent-dim", type=cli.positive(int), help="length of a code (20)")
    add("--activation", choices=list(ACTIVATIONS), help="of the hidden layers (tanh; conv elu)")
    add("--width", type=cli.positive(int), help="maps at half the image's size, for conv (32)")
    add("--binarize", choices=["dynamic", "static"], help="draw pixels anew or once (dynamic)")
    add("--beta", type=cli.positive(float), help="weight of the KL (1)")
    add("--k", type=cli.positive(int), help="importance samples in the training bound (1)")
    add("--lr", type=cli.positive(float), help="learning rate (1e-3)")
    add("--half-life", type=cli.positive(int), help="steps in which it halves (never)")
    add("--sample-every", type=cli.positive(int), help="steps between sample grids (200; 1000)")
    add("--score-k", type=cli.positive(int), help="importance samples of -log p (1000; 5000)")
    add("--score-images", type=cli.positive(int), help="images for -log p (500; 1000)")
    return parser


def sizes(text: str) -> list[int]:
    """ "200,200" -> [200, 200]."""
    return [cli.positive(int)(part) for part in text.split(",")]


def build(architecture: dict) -> VAE:
    """The model; what can't be built is the user's mistake."""
    options = {**architecture, "hidden": tuple(architecture["hidden"])}
    try:
        return VAE(options.pop("image_shape"), options.pop("latent_dim"), **options)
    except ValueError as error:
        raise UserError(str(error)) from error


# ------------------------------------------------------------------------------------- the data


def fixed_draw(data: Dataset, numbers: RandomNumbers) -> Dataset:
    """The set with every pixel drawn once: 0 or 255, which `binarize` leaves as they are."""
    parts = [data.images[i : i + ROWS] for i in range(0, len(data), ROWS)]
    drawn = [binarize(to_float(part, (0, 1)), generator=numbers).numpy() for part in parts]
    images = (np.concatenate(drawn) * 255).astype(np.uint8)
    return Dataset(images, data.labels, data.classes, data.name, data.split)


def test_images(settings: dict, data: Dataset) -> Tensor:
    """Held-out images as zeros and ones, the same draw in every run of this seed."""
    pixels = to_float(data.images[:EVALUATED], (0, 1))
    x = binarize(pixels, generator=RandomNumbers(settings["seed"]).fork("held out"))
    return x.to(settings["device"])


# --------------------------------------------------------------------------------- the training


def train(
    settings: dict, run: RunFolder, data: Dataset, test: Tensor, saved: dict, done: int
) -> None:
    """The steps after `done`. Ctrl-C ends them, after saving, with `Stopped`."""
    vae, schedule = saved["parts"]["vae"], saved["parts"]["schedule"]
    device = settings["device"]
    options = {"shuffle": True, "seed": settings["seed"], "drop_last": True}
    loader = DataLoader(data, settings["batch_size"], value_range=(0, 1), **options)
    if done == 0:
        save_samples(settings, run, 0, vae)

    learn = the_step(settings, vae, saved["parts"]["optimizer"])
    if not settings["eager"]:
        learn = tinygen.capture(learn, device=device)

    def watch() -> dict[str, float]:
        return {"held_out": sum(negative_elbo(settings, vae, test[:WATCHED]))}

    with Steps(settings, run, saved, start=done, **CADENCE) as steps:
        batches = loader.batches(done, settings["steps"], device=device)
        for step, (images, _) in zip(steps, batches, strict=False):
            steps.log(learn(Tensor(images)), watch)
            schedule.step()
            if steps.wants_samples:
                save_samples(settings, run, step, vae)


def the_step(
    settings: dict, vae: VAE, optimizer: optim.Adam
) -> Callable[[Tensor], dict[str, Tensor]]:
    """One training step: a function of grey images, which returns the bound and its parts."""
    beta, k = settings["beta"], settings["k"]

    def learn(images: Tensor) -> dict[str, Tensor]:
        found = objective(vae, binarize(images), beta=beta, k=k)
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        return {"loss": found.loss, "recon": -found.log_likelihood, "kl": found.kl}

    return learn


def negative_elbo(settings: dict, vae: VAE, x: Tensor) -> tuple[float, float]:
    """-E log p(x|z) and KL per image, with the same noise every time; -ELBO is their sum."""
    numbers = RandomNumbers(settings["seed"]).fork("noise")
    with no_grad():
        parts = [vae.elbo(part, generator=numbers) for part in x.split(ROWS)]
    log_likelihood, kl = (np.concatenate([v.cpu().numpy() for v in values])
                          for values in zip(*parts, strict=True))  # fmt: skip
    return -float(log_likelihood.mean()), float(kl.mean())


# --------------------------------------------------------------------------------- the pictures


def save_samples(settings: dict, run: RunFolder, step: int, vae: VAE) -> None:
    numbers = RandomNumbers(settings["seed"]).fork("shown")
    save(run.sample_path(step), vae.sample(SHOWN, generator=numbers))


def save(path: Path, *rows: Tensor, columns: int | None = None) -> None:
    """Images in [0, 1] as a grid, one set after the other."""
    images = np.concatenate([x.cpu().numpy() for x in rows])
    pictures.save_png(path, pictures.grid(images, columns=columns, value_range=(0, 1)))


def draw_pictures(settings: dict, run: RunFolder, vae: VAE, x: Tensor, data: Dataset) -> None:
    """What the model makes of x, the held-out images of `data`; and what training looked like."""
    pictures.animate(run.path / "training.gif", sorted(run.samples.glob("step-*.png")))
    pictures.plot(run.path / "losses.png", run.read_metrics(), [["loss", "held_out"], ["kl"]])

    inputs, outputs = x[:32].cpu().numpy(), vae.reconstruct(x[:32]).cpu().numpy()
    beside = pictures.pairs(inputs, outputs, value_range=(0, 1))
    pictures.save_png(run.path / "reconstructions.png", beside)
    draw_interpolation(run, vae, x[:16])
    draw_repairs(settings, run, vae, x[:10])
    draw_latents(run, vae, x)
    if vae.latent_dim == 2:
        draw_manifold(run, vae)
        draw_codes(run, vae, x, data)


def draw_interpolation(run: RunFolder, vae: VAE, x: Tensor) -> None:
    """A row for each pair of images: ten steps from the code of one to that of the other."""
    with no_grad():
        codes = vae.encode(x).mean.cpu().numpy()
    pairs = zip(codes[::2], codes[1::2], strict=False)
    rows = np.concatenate([interpolate(start, end, 10, "normal") for start, end in pairs])
    save(run.path / "interpolation.png", decode(vae, rows), columns=10)


def draw_repairs(settings: dict, run: RunFolder, vae: VAE, x: Tensor) -> None:
    """Ten images with a tenth of the pixels flipped, or a half missing, and what comes of them."""
    numbers = RandomNumbers(settings["seed"]).fork("repairs")
    flips = binarize(Tensor(np.full(x.shape, 0.1, np.float32)), generator=numbers).to(x.device)
    noisy = (x - flips).abs()
    clean = [vae.denoise(noisy, 0.1, steps, generator=numbers) for steps in (1, 5, 20)]
    save(run.path / "denoising.png", x, noisy, *clean, columns=len(x))

    known = np.zeros(x.shape[1:], bool)
    known[:, : x.shape[2] // 2] = True
    filled = [vae.inpaint(x, known, ROUNDS, generator=numbers) for _ in range(4)]
    save(run.path / "inpainting.png", x, *filled, columns=len(x))


def draw_manifold(run: RunFolder, vae: VAE) -> None:
    """The image at every point of a 20 x 20 grid, spaced so that each is equally probable."""
    z = ndtri(np.linspace(0.025, 0.975, 20)).astype(np.float32)
    rows = np.stack(np.meshgrid(z, z[::-1]), axis=-1).reshape(-1, 2)
    save(run.path / "manifold.png", decode(vae, rows), columns=20)


def decode(vae: VAE, codes: np.ndarray) -> Tensor:
    """Images of the codes (N, latent_dim)."""
    with no_grad():
        return vae.decode(Tensor(codes).to(next(vae.parameters()).device)).mean


def draw_latents(run: RunFolder, vae: VAE, x: Tensor) -> None:
    """A bar for each latent: the nats that it tells about an image, the largest first."""
    kl = np.sort(vae.kl_by_latent(x[:ROWS]))[::-1]
    figure, axes = new_figure()
    axes.bar(np.arange(1, len(kl) + 1), kl)
    axes.set(xlabel="latent", ylabel="KL, nats", title=f"{kl.sum():.1f} nats in all")
    axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(run.path / "kl.png", figure)


def draw_codes(run: RunFolder, vae: VAE, x: Tensor, data: Dataset) -> None:
    """Where the posterior means of the images lie, coloured by class."""
    with no_grad():
        codes = vae.encode(x[:ROWS]).mean.cpu().numpy()
    labels = np.zeros(len(codes), int) if data.labels is None else data.labels[: len(codes)]
    figure, axes = new_figure()
    for label in np.unique(labels):
        name = data.classes[label] if data.classes else None
        axes.scatter(*codes[labels == label].T, label=name, s=4)
    axes.set(xlabel="first latent", ylabel="second latent", aspect="equal")
    if 0 < len(data.classes) <= 20:
        figure.legend(loc="outside right upper", markerscale=3)
    save_figure(run.path / "codes.png", figure)


def new_figure():
    # Imported here: matplotlib takes most of a second, and only the end of a run needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save_figure(path: Path, figure) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


# ------------------------------------------------------------------------------------ the score


def score(settings: dict, run: RunFolder, vae: VAE, x: Tensor) -> None:
    """-ELBO and -log p of held-out images in nats per image, written to scores.json."""
    recon, kl = negative_elbo(settings, vae, x)
    k, few = settings["score_k"], x[: settings["score_images"]]
    numbers = RandomNumbers(settings["seed"]).fork("score")
    log_p = vae.log_likelihood(few, k, rows=ROWS, generator=numbers)
    scores = {
        "images": len(x),
        "-elbo": recon + kl,
        "recon": recon,
        "kl": kl,
        "active_units": vae.active_units(x[:ROWS]),
        "k": k,
        "images_log_p": len(few),
        "-log_p": -float(log_p.mean()),
        "-log_p_standard_error": float(log_p.std() / np.sqrt(len(few))),
    }
    write_json(run.path / "scores.json", {"step": settings["steps"], **scores})
    for name, value in scores.items():
        print(f"{name:>28}: {value:.5g}")


if __name__ == "__main__":
    sys.exit(cli.command(main))
