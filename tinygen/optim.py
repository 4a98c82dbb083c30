"""Optimizers that update all parameters in one fused pass, schedules, and weight averages.

Interfaces and defaults are PyTorch's; the update rules stand in `tinygen_kernels.reference.optim`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import device as _device
from .autograd import no_grad
from .device import array_module, kernels
from .tensor import Tensor

__all__ = [
    "SGD", "Adam", "AdamW", "Adamax", "CosineAnnealingLR", "ExponentialLR",
    "ExponentialMovingAverage", "LambdaLR", "MultiStepLR", "Optimizer", "RMSprop", "StepLR",
]  # fmt: skip


class Optimizer:
    """Base: parameter groups with options, and state arrays beside every parameter.

    `params` is an iterable of Tensors, or of dicts {"params": ..., option: value} for groups with
    options of their own. A parameter whose `.grad` is None is left alone by a step.
    """

    state_names: tuple[str, ...] = ()
    """The state arrays that the rule keeps, in the order in which its kernel takes them."""

    def __init__(self, params: Iterable, **defaults: float | bool):
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: got no parameters")
        if not isinstance(groups[0], Mapping):
            groups = [{"params": groups}]
        self.param_groups: list[dict[str, Any]] = []
        for group in groups:
            unknown = set(group) - {"params", *defaults}
            if unknown:
                raise ValueError(f"{type(self).__name__}: unknown options {sorted(unknown)}")
            self.param_groups.append({**defaults, **group, "params": list(group["params"])})
        self._check_parameters()
        for group in self.param_groups:
            self._check_options(group)
        self._steps = {id(p): 0 for p in self._parameters()}
        self._state: dict[int, dict[str, Any]] = {id(p): {} for p in self._parameters()}
        self._packs: dict[tuple, Any] = {}  # the parameters of a step -> their table of addresses

    def _check_parameters(self) -> None:
        seen: set[int] = set()
        for p in self._parameters():
            if not isinstance(p, Tensor) or not p.is_leaf or not p.requires_grad:
                raise ValueError(
                    f"{type(self).__name__}: can only train leaves that require a gradient, got "
                    f"{'a tensor that is not one' if isinstance(p, Tensor) else type(p).__name__}"
                )
            if id(p) in seen:
                raise ValueError(f"{type(self).__name__}: a parameter of {p.shape} appears twice")
            seen.add(id(p))

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if name in ("lr", "eps", "weight_decay", "momentum") and not value >= 0:
                raise ValueError(f"{type(self).__name__}: {name}={value} must be at least 0")
        for name in ("betas", "alpha"):
            values = options.get(name, ())
            if any(not 0 <= v < 1 for v in (values if isinstance(values, Sequence) else [values])):
                raise ValueError(f"{type(self).__name__}: {name}={values} must lie in [0, 1)")

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _needed(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of `state_names` that a group with these options needs."""
        return self.state_names

    @property
    def steps(self) -> list[int]:
        """How often each parameter has been updated."""
        return list(self._steps.values())

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self._parameters():
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place."""
        for group in self.param_groups:
            # A parameter without a gradient now and then is some steps behind the others.
            alike: dict[tuple[np.dtype, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    self._steps[id(p)] += 1
                    alike.setdefault((p.data.dtype, self._steps[id(p)]), []).append(p)
            for (_, step), params in alike.items():
                grads = [p.grad.data for p in params]
                rule = kernels("optim", params[0].data)
                pack = self._pack(rule, params, self._needed(group))
                self._update(rule, pack, grads, group, step)
                for p in params:  # a graph that still needs the old values must notice
                    p.version[0] += 1
                    p.version[1] = f"{type(self).__name__}.step"

    def _pack(self, rule, params: list[Tensor], names: tuple[str, ...]):
        arrays = [p.data for p in params]
        key = (names, *map(id, arrays))  # the pack keeps the arrays alive, so ids stay theirs
        pack = self._packs.get(key)
        if pack is None:
            for p in params:
                state = self._state[id(p)]
                for name in names:
                    if name not in state:
                        state[name] = array_module(p.data).zeros_like(p.data)
            states = ([self._state[id(p)][name] for p in params] for name in names)
            pack = rule.pack(arrays, *states)
            if len(self._packs) > 8:  # parameters were moved or come and go: keep no old arrays
                self._packs.clear()
            self._packs[key] = pack
        return pack

    def _update(self, rule, pack, grads: list, options: dict[str, Any], step: int) -> None:
        """Call the kernel for parameters that see their step-th update (1, 2, ...)."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"steps": one for each parameter, "groups": their options, "state":
        {"<name>.<number>": Tensor}}; the number is the parameter's place among all."""
        state = {}
        for i, p in enumerate(self._parameters()):
            for name, array in self._state[id(p)].items():
                state[f"{name}.{i}"] = Tensor(array)
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {"steps": self.steps, "groups": groups, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same optimizer over the same parameters.

        Raises ValueError, before anything is changed, if names, shapes or groups differ.
        """
        params = list(self._parameters())
        problems = self._differences(saved, params)
        if problems:
            raise ValueError(f"{type(self).__name__}.load_state_dict: {'; '.join(problems)}")
        for p, steps in zip(params, saved["steps"], strict=True):
            self._steps[id(p)] = int(steps)
        for group, options in zip(self.param_groups, saved["groups"], strict=True):
            group.update(options)
        for i, p in enumerate(params):
            for name in self.state_names:
                self._state[id(p)].pop(name, None)
                value = saved["state"].get(f"{name}.{i}")
                if value is not None:
                    # In the parameter's memory order, as the fused steps need it.
                    array = array_module(p.data).empty_like(p.data)
                    array[...] = _device.move(_array(value), p.device)
                    self._state[id(p)][name] = array
        self._packs.clear()

    def _differences(self, saved: Mapping[str, Any], params: list[Tensor]) -> list[str]:
        """What in a state dict does not fit."""
        problems = []
        if len(saved["steps"]) != len(params):
            problems.append(f"state of {len(saved['steps'])} parameters, not of {len(params)}")
        if len(saved["groups"]) != len(self.param_groups):
            problems.append(f"{len(saved['groups'])} groups, not {len(self.param_groups)}")
        for i, (group, options) in enumerate(
            zip(self.param_groups, saved["groups"], strict=False)
        ):
            if set(options) != set(group) - {"params"}:
                problems.append(f"group {i} has the options {', '.join(sorted(options))}")
        known = {f"{name}.{i}" for i in range(len(params)) for name in self.state_names}
        problems += [f"unexpected {name}" for name in sorted(set(saved["state"]) - known)]
        for i, p in enumerate(params):
            for name in self.state_names:
                value = saved["state"].get(f"{name}.{i}")
                if value is not None and tuple(value.shape) != p.shape:
                    problems.append(f"{name}.{i} has shape {tuple(value.shape)}, not {p.shape}")
        return problems


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak's, or Nesterov's) if asked for."""

    state_names = ("velocity",)

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def _check_options(self, options):
        super()._check_options(options)
        if options["nesterov"] and not options["momentum"]:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")

    def _needed(self, options):
        return self.state_names if options["momentum"] else ()

    def _update(self, rule, pack, grads, options, step):
        rule.sgd_step(
            pack, grads, lr=options["lr"], momentum=options["momentum"],
            nesterov=options["nesterov"], weight_decay=options["weight_decay"],
        )  # fmt: skip


class RMSprop(Optimizer):
    """Gradients divided by the root of their running mean square (Tieleman & Hinton 2012)."""

    state_names = ("square_avg", "velocity")

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        eps_inside_root: bool = False,
    ):
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
            eps_inside_root=eps_inside_root,
        )  # fmt: skip

    def _needed(self, options):
        return self.state_names if options["momentum"] else ("square_avg",)

    def _update(self, rule, pack, grads, options, step):
        names = ("lr", "alpha", "eps", "momentum", "weight_decay", "eps_inside_root")
        rule.rmsprop_step(pack, grads, **{name: options[name] for name in names})


class Adam(Optimizer):
    """Adam (Kingma & Ba 2014): p -= lr · m̂ / (√v̂ + eps), with bias-corrected moments m̂ and v̂.

    `eps_inside_root` gives lr · m̂ / √(v̂ + eps): a larger denominator for small gradients, which
    some published recipes rely on. `weight_decay` is added to the gradient.
    """

    state_names = ("exp_avg", "exp_avg_sq")
    decoupled = False

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        eps_inside_root: bool = False,
    ):
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            eps_inside_root=eps_inside_root,
        )  # fmt: skip

    def _update(self, rule, pack, grads, options, step):
        beta1, beta2 = options["betas"]
        rule.adam_step(
            pack, grads, lr=options["lr"], beta1=beta1, beta2=beta2, eps=options["eps"],
            weight_decay=options["weight_decay"], decoupled=self.decoupled,
            eps_inside_root=options["eps_inside_root"], step=step,
        )  # fmt: skip


class AdamW(Adam):
    """Adam with weight decay taken from the parameters directly (Loshchilov & Hutter 2017)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        eps_inside_root: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, eps_inside_root=eps_inside_root)


class Adamax(Optimizer):
    """Adam with the largest recent gradient in place of the root mean square (Kingma & Ba 2014,
    section 7.1)."""

    state_names = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Iterable,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, rule, pack, grads, options, step):
        beta1, beta2 = options["betas"]
        rule.adamax_step(
            pack, grads, lr=options["lr"], beta1=beta1, beta2=beta2, eps=options["eps"],
            weight_decay=options["weight_decay"], step=step,
        )  # fmt: skip


# ------------------------------------------------------------------------------------ schedules


class LambdaLR:
    """Learning rate = its starting value · factor(n) after n calls of `step`."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]):
        self.optimizer = optimizer
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.factor = lr_lambda
        self.last_epoch = 0
        self._apply()

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * self.factor(self.last_epoch)

    def step(self) -> None:
        """Go on by one (epoch or step, whichever the schedule counts)."""
        self.last_epoch += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The count and the starting values."""
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from there."""
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._apply()


class StepLR(LambdaLR):
    """Multiplied by gamma every `step_size` calls."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        super().__init__(optimizer, lambda n: gamma ** (n // step_size))


class MultiStepLR(LambdaLR):
    """Multiplied by gamma at each of the milestones."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        super().__init__(optimizer, lambda n: gamma ** sum(n >= m for m in milestones))


class ExponentialLR(LambdaLR):
    """Multiplied by gamma at every call."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        super().__init__(optimizer, lambda n: gamma**n)


class CosineAnnealingLR(LambdaLR):
    """From the starting value down to `eta_min` along half a cosine of T_max calls."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        self.eta_min = eta_min
        super().__init__(optimizer, lambda n: (1 + math.cos(math.pi * n / T_max)) / 2)

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.eta_min + (lr - self.eta_min) * self.factor(self.last_epoch)


# ------------------------------------------------------------------------------------- averages


class ExponentialMovingAverage:
    """Averages a ← decay · a + (1 - decay) · p of parameters p, which often sample better than p.

    >>> import tinygen as tg
    >>> net = tg.nn.Linear(2, 1)
    >>> ema = ExponentialMovingAverage(net.parameters(), decay=0.99)
    >>> ema.update()             # after each optimizer step
    >>> with ema.applied():      # the net computes with the averages in here
    ...     y = net(tg.ones(1, 2))
    """

    def __init__(self, params: Iterable[Tensor], decay: float):
        if not 0 <= decay <= 1:
            raise ValueError(f"ExponentialMovingAverage: decay={decay} must lie in [0, 1]")
        self.params, self.decay = list(params), decay
        self.averages = [_copy(p.data) for p in self.params]

    def update(self) -> None:
        """Move the averages towards the parameters."""
        by_dtype: dict[np.dtype, list[int]] = {}
        for i, p in enumerate(self.params):
            by_dtype.setdefault(p.data.dtype, []).append(i)
        for places in by_dtype.values():
            arrays = [self.params[i].data for i in places]
            rule = kernels("optim", arrays[0])
            rule.ema_step(rule.pack([self.averages[i] for i in places], arrays), self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the parameters hold the averages."""
        current = [_copy(p.data) for p in self.params]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(current)

    def _write(self, arrays: list) -> None:
        with no_grad():
            for p, array in zip(self.params, arrays, strict=True):
                p.copy_(array)

    def state_dict(self) -> dict[str, Tensor]:
        """Number -> average."""
        return {str(i): Tensor(a) for i, a in enumerate(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from averages of the same parameters; ValueError, before anything is
        changed, for others."""
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        expected = {str(i): average.shape for i, average in enumerate(self.averages)}
        problems = [
            f"average {i} has shape {shapes.get(i)}, not {expected.get(i)}"
            for i in sorted(shapes.keys() | expected.keys())
            if shapes.get(i) != expected.get(i)
        ]
        if problems:
            raise ValueError(f"ExponentialMovingAverage.load_state_dict: {'; '.join(problems)}")
        for i, average in enumerate(self.averages):
            average[...] = _device.move(_array(state[str(i)]), _device.device_of(average))


def _array(value):
    return value.data if isinstance(value, Tensor) else np.asarray(value)


def _copy(array):
    """A copy in the same memory order, which the fused steps rely on."""
    copy = array_module(array).empty_like(array)
    copy[...] = array
    return copy
