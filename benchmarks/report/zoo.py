"""The models whose training steps are compared: an entry each."""

from __future__ import annotations

from types import ModuleType

from twins import dcgan, draw, iaf, pixelrnn, vae
from twins.dcgan import DCGAN

from .steps import Model

__all__ = ["MODELS"]


def _likelihood(module: ModuleType, name: str) -> Model:
    """At the sizes of the CPU benchmark. Dense layers know no channels-last memory, and to compile
    an unrolled recurrence takes longer than the report may."""
    providers = "tinygen", "tinygen captured", "torch", "torch channels-last, CUDA graph"
    return Model(module, module.CASES[name], module.SMALL[name], providers, ("tf32",))


MODELS: dict[str, Model] = {
    "DCGAN 64x64, batch 128": Model(dcgan, DCGAN(64, 3, 64, None, 128), DCGAN(64, 1, 2, None, 4)),
    "DCGAN 28x28, batch 128": Model(dcgan, DCGAN(28, 1, 32, 256, 128), DCGAN(28, 1, 2, 8, 4)),
} | {
    name: _likelihood(module, name)
    for module in (vae, iaf, pixelrnn, draw)
    for name in module.CASES
}
