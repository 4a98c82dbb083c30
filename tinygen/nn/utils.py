"""Gradient clipping and weight normalisation."""

from __future__ import annotations

from collections.abc import Iterable

from .. import functional as F
from ..autograd import no_grad
from ..device import array_module, kernels
from ..tensor import Tensor
from .module import Handle, Module, Parameter

__all__ = ["clip_grad_norm_", "clip_grad_value_", "remove_weight_norm", "weight_norm"]


def _with_gradients(parameters: Tensor | Iterable[Tensor]) -> list:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad.data for p in parameters if p.grad is not None]


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float | Tensor:
    """Scale all gradients together so that their joint Euclidean norm is at most `max_norm`.

    Returns the norm before; on a GPU as a Tensor there, since reading it would wait for the GPU.
    A norm that is not finite leaves the gradients as they are, for the caller to see.
    """
    grads = _with_gradients(parameters)
    if not grads:
        return 0.0
    norm = kernels("optim", grads[0]).clip_norm_(grads, max_norm)
    return norm if isinstance(norm, float) else Tensor(norm)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every component of the gradients to [-clip_value, clip_value]."""
    for grad in _with_gradients(parameters):
        array_module(grad).clip(grad, -clip_value, clip_value, out=grad)


class _WeightNorm:
    """The hooks behind `weight_norm`: compute w = g v/|v| before each call.

    A buffer `mask` of the weight's shape is applied to v on the way.
    """

    def __init__(self, name: str, axis: int):
        self.name, self.axis = name, axis
        self.handles: list[Handle] = []
        self.until_initialised: list[Handle] = []

    def install(self, module: Module, data_dependent: bool) -> None:
        self.handles.append(module.register_forward_pre_hook(self.before))
        if data_dependent:
            self.until_initialised += [
                module.register_forward_hook(self.after),
                module.register_load_hook(self.loaded),
            ]
        self.before(module, ())

    def remove(self) -> None:
        for handle in (*self.handles, *self.until_initialised):
            handle.remove()

    def initialised(self) -> None:
        for handle in self.until_initialised:
            handle.remove()

    def weight(self, module: Module) -> Tensor:
        g, v = (getattr(module, f"{self.name}_{part}") for part in "gv")
        mask = module._buffers.get("mask")
        if mask is not None and mask.shape != v.shape:
            mask = None
        return F.weight_norm(v, g, dim=self.axis, mask=mask)

    def before(self, module: Module, args: tuple) -> None:
        object.__setattr__(module, self.name, self.weight(module))

    def loaded(self, module: Module, names: set[str]) -> None:
        """A g from a state dict is not to be replaced."""
        if f"{self.name}_g" in names:
            self.initialised()

    def after(self, module: Module, args: tuple, output):
        """At the first call: g and b so that the outputs of this batch have mean 0, variance 1."""
        self.initialised()
        g = getattr(module, f"{self.name}_g")
        data = output.data
        channel_axis = 1 if g.ndim > 2 else data.ndim - 1  # of a convolution, of a linear layer
        if data.shape[channel_axis] != g.size:
            raise ValueError(
                f"weight_norm: {g.size} slices along dim={self.axis} for "
                f"{data.shape[channel_axis]} output channels; data_dependent_init needs the dim "
                "of the output channels (1 in transposed convolutions without groups)"
            )
        others = tuple(i for i in range(data.ndim) if i != channel_axis)
        mean, std = data.mean(others), data.std(others) + 1e-8
        bias = module._parameters.get("bias")
        with no_grad():
            g.div_(std.reshape(g.shape))
            if bias is not None:
                bias.sub_(mean).div_(std)
        self.before(module, args)
        return module.forward(*args)


def weight_norm(
    module: Module, name: str = "weight", dim: int = 0, *, data_dependent_init: bool = False
) -> Module:
    """Train a weight as w = g · v / |v|, one length g for each slice along `dim`.

    The module's `weight` gives way to the parameters `weight_g` and `weight_v`. With
    `data_dependent_init` the first call, unless a g was loaded before it, sets g and the bias so
    that each output channel has mean 0 and variance 1 over that batch (Salimans & Kingma 2016,
    section 3).
    """
    v = module._parameters.get(name)
    if v is None:
        raise ValueError(f"weight_norm: {type(module).__name__} has no parameter {name!r}")
    if dim not in range(v.ndim):
        raise ValueError(f"weight_norm: dim={dim} is no axis of a {name} of shape {v.shape}")
    others = tuple(i for i in range(v.ndim) if i != dim)
    g = array_module(v.data).sqrt((v.data * v.data).sum(others, keepdims=True))
    delattr(module, name)
    setattr(module, f"{name}_g", Parameter(g))
    setattr(module, f"{name}_v", v)
    hook = _WeightNorm(name, dim)
    hook.install(module, data_dependent_init)
    object.__setattr__(module, f"_{name}_norm", hook)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make the weight a parameter of its own again, with its present value."""
    hook = module.__dict__.pop(f"_{name}_norm", None)
    if hook is None:
        raise ValueError(f"remove_weight_norm: {name!r} of {type(module).__name__} has none")
    value = hook.weight(module).data
    hook.remove()
    for part in (name, f"{name}_g", f"{name}_v"):
        delattr(module, part)
    setattr(module, name, Parameter(value))
    return module
