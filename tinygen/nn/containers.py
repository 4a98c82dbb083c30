"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from .activation import ELU, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from .linear import Linear
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

    A Linear with the activation after it, and a BatchNorm with its ReLU or LeakyReLU, run as one
    operation (the result is the same), unless a hook watches what is between the two. One mapping
    instead gives the modules names.
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
            if following is not None and _fusible(module, following):
                x = module(x, activation=following.kind, param=following.param)
                i += 2
            else:
                x = module(x)
                i += 1
        return x


def _fusible(module: Module, following: Module) -> bool:
    """Whether `module` can apply the activation `following` as well. Hooks before it see nothing
    of it; and who has a forward of their own know nothing of activations."""
    if isinstance(module, BatchNorm):
        known = type(module).forward is BatchNorm.forward and type(following) in (ReLU, LeakyReLU)
        known = known and following.param >= 0
    else:
        known = type(module).forward is Linear.forward and type(following) in _OF_LINEAR
    return known and not (module._forward_hooks or following.has_hooks)


_OF_LINEAR = {ReLU, LeakyReLU, ELU, Softplus, Sigmoid, Tanh}


class ModuleList(_Listed):
    """A list of modules whose parameters are found; it has no `forward` of its own."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def __getitem__(self, index):
        modules = list(self)[index]
        return ModuleList(modules) if isinstance(index, slice) else modules
