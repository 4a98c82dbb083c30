"""An inverse autoregressive flow where it can be seen: in the plane.

    python examples/iaf_toy.py                        # half a minute on the CPU
    python examples/iaf_toy.py --flow-steps 2         # too few steps to bend a blob into a ring

A density p(z) ∝ e^{-U(z)} is given by its energy U alone: a ring, or four separate hills. The flow
takes samples of a Gaussian to samples of a density q. It learns by the bound that trains the
posterior of examples/iaf.py, with U in the place of the image:

    minimise KL(q ‖ p) + const = E[log q(z_T) + U(z_T)],   log q(z_T) = log N(z_0) - Σ_t log det_t

toy.png has a row for each energy: p; samples of the Gaussian; where the flow takes them, each in
the colour it had before, and how far q is from p. A flow can't tear its blob: the ring stays open,
and threads remain between the hills. (Kingma et al. 2016, arXiv 1606.04934; pictures of this kind
are in Rezende & Mohamed 2015, arXiv 1505.05770.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tinygen
from tinygen import Tensor, no_grad, optim
from tinygen import functional as F
from tinygen.distributions import Normal, per_example
from tinygen.models.iaf import IAF
from tinygen.train import Progress, check_finite, cli
from tinygen.train.files import replacing

BATCH = 256
WIDTH = 64  # hidden units of a step's MADE
SHOWN = 4000  # samples in the picture
SIDE = 4.0  # the picture shows -SIDE to SIDE
CENTRES = np.array([[2, 0], [-2, 0], [0, 2], [0, -2]], np.float32)


def ring(z):
    """A circle of radius 2, 0.3 wide: U = ½ ((|z| - 2) / 0.3)²."""
    radius = F.sqrt(F.sum(z * z, 1) + 1e-6)
    return ((radius - 2) / 0.3) ** 2 * 0.5


def hills(z):
    """Four Gaussians of standard deviation 0.5: U = -log Σ_c exp(-½ |z - c|² / 0.5²)."""
    apart = F.reshape(z, -1, 1, 2) - Tensor(CENTRES)
    return -F.logsumexp(F.sum(apart * apart, 2) * -2.0, 1)


ENERGIES = {"ring": ring, "four hills": hills}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=cli.positive(int), default=1000, help="of training")
    parser.add_argument("--flow-steps", type=cli.positive(int), default=8, help="of the flow")
    parser.add_argument("--seed", type=int, default=0, help="of every random number")
    parser.add_argument("--out", type=Path, default=Path("toy.png"), help="the picture")
    args = parser.parse_args(argv)
    fits = {}
    for name, energy in ENERGIES.items():
        print(name)
        tinygen.manual_seed(args.seed)
        flow = IAF(2, 0, steps=args.flow_steps, width=WIDTH, gated=False)
        fit(flow, energy, args.steps)
        fits[name] = energy, *samples(flow), divergence(flow, energy)
    draw(args.out, fits)
    print(f"see {args.out}")


def fit(flow: IAF, energy: Callable, steps: int) -> None:
    """Maximise the bound over the flow's parameters."""
    optimizer = optim.Adam(flow.parameters(), lr=5e-3)
    progress = Progress(steps, batch_size=BATCH)
    for step in progress:
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - (step - 1) / steps)
        z, log_q = draw_from(flow, BATCH)
        loss = F.mean(log_q + energy(z))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps:
            numbers = {"E[log q + U]": loss.item()}
            check_finite(step, numbers)
            progress.show(numbers)


def draw_from(flow: IAF, n: int) -> tuple[Tensor, Tensor]:
    """n samples z_T (n, 2) and log q of each."""
    start = Tensor(tinygen.random.normal((n, 2)))
    z, log_det = flow(start)
    return z, per_example(Normal().log_prob(start)) - log_det


def samples(flow: IAF) -> tuple[np.ndarray, np.ndarray]:
    """Points before and after the flow, (SHOWN, 2)."""
    start = tinygen.random.normal((SHOWN, 2))
    with no_grad():
        return start, flow(Tensor(start))[0].numpy()


def divergence(flow: IAF, energy: Callable) -> float:
    """KL(q ‖ p) in nats, from samples of q and from p's mass on a grid."""
    with no_grad():
        z, log_q = draw_from(flow, SHOWN)
        bound = F.mean(log_q + energy(z)).item()
    log_mass = np.log(unnormalised(energy).mean() * (2 * SIDE) ** 2)
    return bound + float(log_mass)


def unnormalised(energy: Callable) -> np.ndarray:
    """e^{-U} on a grid over what the picture shows."""
    line = np.linspace(-SIDE, SIDE, 200, dtype=np.float32)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return np.exp(-energy(Tensor(points)).numpy()).reshape(len(line), -1)


def draw(path: Path, fits: dict[str, tuple]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2 * len(fits)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(fits), 3, squeeze=False)
    for row, (name, (energy, before, after, nats)) in zip(rows, fits.items(), strict=True):
        density, *clouds = row
        p = unnormalised(energy)
        density.imshow(p, extent=(-SIDE, SIDE, -SIDE, SIDE), origin="lower", cmap="magma")
        density.set_title(f"{name}: the density p")
        angle = np.arctan2(before[:, 1], before[:, 0])
        titles = "samples before the flow", f"after it: KL(q ‖ p) = {nats:.2f} nats"
        for axis, cloud, title in zip(clouds, (before, after), titles, strict=True):
            axis.scatter(*cloud.T, c=angle, cmap="hsv", s=2, linewidths=0)
            axis.set_title(title)
            axis.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), aspect="equal")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


if __name__ == "__main__":
    sys.exit(cli.command(main))
