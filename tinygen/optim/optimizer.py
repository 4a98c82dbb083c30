"""What all optimizers share: parameter groups, state, the fused step, saving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import device as _device
from .. import graph
from ..device import array_module, kernels
from ..tensor import Tensor

__all__ = ["Optimizer"]


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
                    alike.setdefault((p.data.dtype, self._steps[id(p)]), []).append(p)
            for (_, done), params in alike.items():
                grads = [p.grad.data for p in params]
                rule = kernels("optim", params[0].data)
                pack = self._pack(rule, params, self._needed(group))
                captured = graph.active()
                if captured is None:
                    self._update(rule, pack, grads, group, done + 1)
                else:
                    captured.keep(pack)
                    self._update(rule, pack, grads, *self._live(captured, group, params))
                self._count(params)
                for p in params:  # a graph that still needs the old values must notice
                    p.version[0] += 1
                    p.version[1] = f"{type(self).__name__}.step"

    def _count(self, params: list[Tensor]) -> None:
        for p in params:
            self._steps[id(p)] += 1

    def _live(self, captured: graph.CapturedStep, group: dict, params: list[Tensor]):
        """The options and the step's number, where a replay's kernels read them."""
        steps, first = self._steps, id(params[0])
        lr = captured.live((id(group), "lr"), lambda: group["lr"], np.float64)
        step = captured.count(first, lambda: steps[first], lambda: self._count(params))
        step += 1
        return {**group, "lr": lr.array}, step

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
                    array[...] = _device.move(array_of(value), p.device)
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


def array_of(value):
    return value.data if isinstance(value, Tensor) else np.asarray(value)
