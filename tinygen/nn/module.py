"""Module: a function with parameters, buffers and sub-modules, under PyTorch's names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import device as _device
from ..autograd import no_grad
from ..tensor import Tensor

__all__ = ["Module", "Parameter"]


class Parameter(Tensor):
    """A Tensor that a Module trains: assigned as an attribute, it appears in `parameters()`."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data.data if isinstance(data, Tensor) else data)
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return f"Parameter {super().__repr__()}"


class Handle:
    """Removes a registered hook."""

    def __init__(self, hooks: dict, key: int):
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Take the hook out again; harmless when repeated."""
        self._hooks.pop(self._key, None)


class Module:
    """Base of all layers and networks: assign Parameters and Modules in `__init__`, compute in
    `forward`, and call the object.

    >>> from tinygen import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> [name for name, _ in net.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self) -> None:
        # Straight into __dict__: __setattr__ below needs them to exist.
        self.__dict__.update(
            training=True,
            _parameters={},
            _buffers={},
            _modules={},
            _forward_pre_hooks=OrderedDict(),
            _forward_hooks=OrderedDict(),
            _load_hooks=OrderedDict(),
            _hook_count=0,
        )

    # --------------------------------------------------------------------------------- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        tables = self.__dict__
        if isinstance(value, (Parameter, Module)) and "_parameters" not in tables:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() first")
        if isinstance(value, Parameter):
            table = "_parameters"
        elif isinstance(value, Module):
            table = "_modules"
        else:  # a registered name stays what it is
            table = next((table for table in _KINDS if name in tables.get(table, ())), None)
        if table is None:
            object.__setattr__(self, name, value)
        else:
            self._register(table, name, value)

    def _register(self, table: str, name: str, value: Any) -> None:
        if not isinstance(value, _KINDS[table] | None):
            raise TypeError(
                f"{type(self).__name__}.{name} must be a {_KINDS[table].__name__} or None, "
                f"got {type(value).__name__}"
            )
        for other in (self.__dict__, *(self.__dict__[t] for t in _KINDS if t != table)):
            other.pop(name, None)
        self.__dict__[table][name] = value

    def __getattr__(self, name: str) -> Any:
        for table in _KINDS:
            known = self.__dict__.get(table, {})
            if name in known:
                return known[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        for table in _KINDS:
            if name in self.__dict__[table]:
                del self.__dict__[table][name]
                return
        object.__delattr__(self, name)

    def register_buffer(self, name: str, value: Tensor | None) -> None:
        """State that is saved but not trained, such as running statistics."""
        self._register("_buffers", name, value)

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        """As assigning it; None keeps the name without a parameter (a layer without bias)."""
        self._register("_parameters", name, value)

    def add_module(self, name: str, module: Module) -> None:
        """As assigning it, for names that are no identifiers."""
        self._register("_modules", name, module)

    # ----------------------------------------------------------------------------------- calling

    def forward(self, *args, **kwargs):
        """The computation; overridden by every module."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *args, **kwargs):
        if not self.has_hooks:
            return self.forward(*args, **kwargs)
        for hook in list(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    def register_forward_pre_hook(self, hook: Callable) -> Handle:
        """Call `hook(module, args)` before each forward; it may return other arguments."""
        return self._add_hook(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable) -> Handle:
        """Call `hook(module, args, output)` after each forward; it may return another output."""
        return self._add_hook(self._forward_hooks, hook)

    def register_load_hook(self, hook: Callable) -> Handle:
        """Call `hook(module, names)` when `load_state_dict`, here or above, has written values:
        those of this module with these names (without dots)."""
        return self._add_hook(self._load_hooks, hook)

    def _add_hook(self, hooks: dict, hook: Callable) -> Handle:
        self.__dict__["_hook_count"] += 1
        hooks[self._hook_count] = hook
        return Handle(hooks, self._hook_count)

    @property
    def has_hooks(self) -> bool:
        """Whether anybody watches this module's calls (then a Sequential must make them)."""
        own = self.__dict__  # not by __getattr__: every call asks
        return bool(own["_forward_pre_hooks"] or own["_forward_hooks"])

    # ------------------------------------------------------------------------------------ walking

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (under the name `prefix`) and all below it, each once."""
        seen: set[int] = set()
        stack = [(prefix, self)]
        while stack:
            name, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            below = [(f"{name}.{key}" if name else key, m) for key, m in module._modules.items()]
            stack += [(key, m) for key, m in reversed(below) if m is not None]

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[Module]:
        """The modules directly below this one, each once."""
        return iter({id(m): m for m in self._modules.values() if m is not None}.values())

    def _named(self, table: str, prefix: str) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, value in module.__dict__[table].items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once even if modules share it."""
        return self._named("_parameters", prefix)

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer)."""
        return self._named("_buffers", prefix)

    def buffers(self) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers())

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call `function` on every module, the innermost first; returns self."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # ------------------------------------------------------------------------------------- state

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Name -> Tensor (detached, the same memory), parameters and buffers, in PyTorch's names:
        what several modules share stands under every name.

        Weights of convolutions lie channels-last in memory. Give `np.asarray(value, order="C")` to
        code that copies memory as it lies, such as `safetensors.numpy.save_file`.
        """
        own = {**self._parameters, **self._buffers}
        state = {prefix + k: value.detach() for k, value in own.items() if value is not None}
        for name, module in self._modules.items():
            if module is not None:
                state |= module.state_dict(f"{prefix}{name}.")
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values (Tensors or arrays) into the parameters and buffers of the same names.

        Raises ValueError that lists all missing, unexpected and misshaped names at once; with
        `strict=False` missing and unexpected ones are passed over. Nothing is written on error.
        """
        own = self.state_dict()
        problems = []
        if strict:
            problems += [f"missing {name}" for name in own if name not in state]
            problems += [f"unexpected {name}" for name in state if name not in own]
        values = {}
        for name in own.keys() & state.keys():
            value = state[name]
            values[name] = value.data if isinstance(value, Tensor) else np.asarray(value)
            if values[name].shape != own[name].shape:
                problems.append(f"{name} has shape {values[name].shape}, not {own[name].shape}")
        if problems:
            raise ValueError(f"{type(self).__name__}.load_state_dict: {'; '.join(problems)}")
        with no_grad():
            for name, value in values.items():
                own[name].copy_(_device.move(value, own[name].device))
        for path, module in self.named_modules():
            dot = f"{path}." if path else ""
            written = {
                name for name in module._parameters | module._buffers if dot + name in values
            }
            for hook in list(module._load_hooks.values()):
                hook(module, written)

    # ------------------------------------------------------------------------------------- modes

    def train(self, mode: bool = True) -> Module:
        """Training behaviour (dropout on, batch statistics) for this module and all below it."""
        for module in self.modules():
            module.__dict__["training"] = mode
        return self

    def eval(self) -> Module:
        """Evaluation behaviour: the opposite of `train`."""
        return self.train(False)

    def requires_grad_(self, value: bool = True) -> Module:
        """Switch gradients for all parameters; off, no work is done for them in backward."""
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, target: Any) -> Module:
        """Move to a device ("cuda") or convert floating-point values to a dtype; returns self.

        Do it before making an optimizer: parameters get new arrays.
        """
        to_device = isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda")
        if to_device:
            _device.check(target)
        elif np.dtype(target).kind != "f":
            raise TypeError(f"to: expected a device or a floating-point dtype, got {target}")
        for tensor in (*self.parameters(), *self.buffers()):
            if to_device:
                array = _device.move(tensor.data, target)
            elif tensor.dtype.kind == "f":
                array = tensor.data.astype(target, copy=False)
            else:
                continue
            if array is not tensor.data:
                tensor.set_data(array)
        return self

    def float(self) -> Module:
        """As float32."""
        return self.to(np.float32)

    def double(self) -> Module:
        """As float64."""
        return self.to(np.float64)

    # -------------------------------------------------------------------------------------- text

    def extra_repr(self) -> str:
        """The options that `repr` shows; overridden by layers."""
        return ""

    def __repr__(self) -> str:
        below = [
            f"({name}): " + repr(module).replace("\n", "\n  ")
            for name, module in self._modules.items()
        ]
        head = f"{type(self).__name__}({self.extra_repr()}"
        return head + ("\n  " + "\n  ".join(below) + "\n)" if below else ")")


_KINDS = {"_parameters": Parameter, "_buffers": Tensor, "_modules": Module}
"""A module's tables of registered names, and what each holds."""
