"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .activation import LeakyReLU, ReLU
from .module import Module
from .norm import BatchNorm

__all__ = ["ModuleList", "Sequential"]


class _Listed(Module):
    """Modules under the names "0", "1", ..."""

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Module:
        modules = list(self)
        if isinstance(index, slice):
            return type(self)(*modules[index])
        return modules[index]

    def append(self, module: Module) -> Module:
        """Add one more at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self


class Sequential(_Listed):
    """One module after the other: `Sequential(a, b)(x)` is `b(a(x))`.

    A BatchNorm that a ReLU or LeakyReLU follows runs with it as one kernel (the result is the
    same), unless a hook watches one of the two. One mapping instead gives the modules names.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            for module in modules:
                self.append(module)

    def forward(self, input):
        modules = list(self)
        x, i = input, 0
        while i < len(modules):
            module, following = modules[i], modules[i + 1] if i + 1 < len(modules) else None
            if isinstance(module, BatchNorm) and _fusible(module, following):
                x = module.forward(
                    x, activation=following.kind, negative_slope=following.negative_slope
                )
                i += 2
            else:
                x = module(x)
                i += 1
        return x


def _fusible(norm: BatchNorm, activation: Module | None) -> bool:
    return (
        type(activation) in (ReLU, LeakyReLU)
        and type(norm).forward is BatchNorm.forward
        and activation.negative_slope >= 0
        and not (norm.has_hooks or activation.has_hooks)
    )


class ModuleList(_Listed):
    """A list of modules whose parameters are found; it has no `forward` of its own."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def __getitem__(self, index):
        modules = list(self)[index]
        return ModuleList(modules) if isinstance(index, slice) else modules
