"""What DCGAN reaches on MNIST in a fixed budget: tinygen beside a PyTorch twin.

    TINYGEN_DATA=... python benchmarks/quality.py --epochs 2 --seeds 0 1 2 --json quality.json

The CPU size of `examples/dcgan.py` (preset small) at its settings: batch 128, codes uniform in
[-1, 1)^100, Adam (0.5, 0.999) at 2e-4 for D and 1e-3 for G, one step of each per batch, generated
images used by both. The twin starts from the same weights and sees the same batches and codes;
what differs is the arithmetic. Both are judged by one classifier, which tinygen trained on the
training images (see `tinygen.metrics`), on 10,000 samples of each, drawn in batches of 500 with
the batch's own statistics, against the 10,000 test images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from common import machine, print_table, write_json

from tinygen import Tensor, manual_seed, metrics, no_grad, optim
from tinygen.data import DataLoader, load
from tinygen.models.dcgan import (
    Discriminator,
    Generator,
    discriminator_loss,
    generator_loss,
    sample_codes,
)

SIZES = {"image_size": 28, "channels": 1, "width": 32, "hidden": 256}
BATCH, LATENT, SAMPLES = 128, 100, 10_000


def train_tinygen(G, D, batches) -> None:
    """The loop of examples/dcgan.py."""
    optim_g = optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optim_d = optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for images, _ in batches:
        fake = G(sample_codes(BATCH, LATENT))
        loss_d = discriminator_loss(D(Tensor(images)), D(fake.detach()))
        optim_d.zero_grad()
        loss_d.backward()
        optim_d.step()
        D.requires_grad_(False)
        loss_g = generator_loss(D(fake))
        optim_g.zero_grad()
        loss_g.backward()
        optim_g.step()
        D.requires_grad_(True)


def train_torch(G, D, batches) -> None:
    """The same in PyTorch, starting from the weights of G and D and leaving its own in them."""
    import torch
    from torch import nn
    from torch.nn.functional import softplus

    def twin(net):
        """The network of the same layers: tinygen's have PyTorch's names and options."""
        layers = []
        for layer in net.net:
            kind = type(layer).__name__
            if kind == "Linear":
                layers.append(nn.Linear(layer.in_features, layer.out_features, bias=False))
            elif kind in ("Conv2d", "ConvTranspose2d"):
                layers.append(getattr(nn, kind)(
                    layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                    layer.padding, bias=False))  # fmt: skip
            elif kind.startswith("BatchNorm"):
                layers.append(getattr(nn, kind)(layer.num_features))
            elif kind == "LeakyReLU":
                layers.append(nn.LeakyReLU(layer.negative_slope))
            elif kind == "Unflatten":
                layers.append(nn.Unflatten(1, layer.unflattened_size))
            else:
                layers.append(getattr(nn, kind)())
        other = nn.Sequential(*layers)
        state = {k: torch.tensor(np.array(v)) for k, v in net.net.state_dict().items()}
        other.load_state_dict(state)
        return other

    g, d = twin(G), twin(D)
    optim_g = torch.optim.Adam(g.parameters(), lr=1e-3, betas=(0.5, 0.999))
    optim_d = torch.optim.Adam(d.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for images, _ in batches:
        fake = g(torch.from_numpy(sample_codes(BATCH, LATENT).numpy()))
        loss_d = softplus(-d(torch.from_numpy(images))).mean() + softplus(d(fake.detach())).mean()
        optim_d.zero_grad()
        loss_d.backward()
        optim_d.step()
        d.requires_grad_(False)
        loss_g = softplus(-d(fake)).mean()
        optim_g.zero_grad()
        loss_g.backward()
        optim_g.step()
        d.requires_grad_(True)
    G.net.load_state_dict({name: value.numpy() for name, value in g.state_dict().items()})


def samples(G) -> np.ndarray:
    """Images of 10,000 codes, by the statistics of batches of 500."""
    G.train()
    with no_grad():
        parts = [G(sample_codes(500, LATENT)).numpy() for _ in range(SAMPLES // 500)]
    return np.concatenate(parts)


def run(library: str, seed: int, epochs: int, data, held_out, net) -> dict[str, float]:
    """Train once, score once."""
    manual_seed(seed)
    G, D = Generator(LATENT, **SIZES), Discriminator(**SIZES)
    loader = DataLoader(data, BATCH, shuffle=True, seed=seed, drop_last=True)
    steps = epochs * len(loader)
    start, cpu = time.perf_counter(), time.process_time()
    (train_tinygen if library == "tinygen" else train_torch)(G, D, loader.batches(0, steps))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    images = samples(G)
    features, real = net.features(images), net.features(held_out.images)
    probabilities = net.probabilities(images)
    score, _ = metrics.inception_style_score(probabilities, splits=10, seed=0)
    shares = np.bincount(probabilities.argmax(1), minlength=10) / len(images)
    precision, recall = metrics.precision_recall(real[:5000], features[:5000])
    return {
        "score": score, "frechet": metrics.frechet_distance(features, real),
        "precision": precision, "recall": recall,
        "smallest class": shares.min(), "largest class": shares.max(),
        "seconds": seconds, "cpu": cpu, "steps": steps,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--libraries", nargs="+", default=["tinygen", "torch"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data, held_out = load("mnist"), load("mnist", split="test")
    net = metrics.feature_net(data, held_out)
    real = net.features(data.images[:SAMPLES]), net.features(held_out.images)
    score, _ = metrics.inception_style_score(net.probabilities(held_out.images), splits=10, seed=0)
    print(f"classifier: {100 * float(net.accuracy.item()):.2f} % of the test images; "
          f"score of the test images {score:.2f}; distance of 10,000 training images "
          f"{metrics.frechet_distance(*real):.2f}")  # fmt: skip
    results = {"machine": machine(), "epochs": args.epochs, "real score": score, "runs": []}
    for library in args.libraries:
        for seed in args.seeds:
            found = run(library, seed, args.epochs, data, held_out, net)
            results["runs"].append({"library": library, "seed": seed, **found})
            print(json.dumps(results["runs"][-1], default=float), file=sys.stderr, flush=True)
    rows = []
    for library in args.libraries:
        runs = [r for r in results["runs"] if r["library"] == library]
        row = [library]
        for key in ("score", "frechet", "precision", "recall", "smallest class", "largest class"):
            values = np.array([r[key] for r in runs])
            row.append(f"{values.mean():.3g} ({values.min():.3g}..{values.max():.3g})")
        rows.append(row)
    print_table(["library", "score", "Frechet", "precision", "recall", "smallest class",
                 "largest class"], rows)  # fmt: skip
    write_json(args.json, json.loads(json.dumps(results, default=float)))


if __name__ == "__main__":
    main()
