"""What stands on the tape: a node for each operation, for each of its several outputs, and for
each leaf."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from types import CodeType

import numpy as np

from .. import device
from ..tensor import Tensor
from .modes import caller, line_of, state

__all__ = ["Alias", "Leaf", "Node", "Op", "Output"]

_clock = itertools.count(1)  # every node is younger than the nodes it reads


class Node:
    """A place on the tape where one gradient, of this shape and dtype, arrives."""

    __slots__ = ("__weakref__", "dtype", "order", "parents", "shape")
    parents: Sequence[Node | None]


class Leaf(Node):
    """Where the gradient of a Tensor that the user made accumulates, in its `.grad`."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = weakref.ref(tensor)  # the Tensor owns the node, not the other way round
        self.order, self.parents = 0, ()
        self.shape, self.dtype = tensor.data.shape, tensor.data.dtype


class Output(Node):
    """One of several outputs of an Op."""

    __slots__ = ("index",)

    def __init__(self, op: Op, index: int, array):
        self.order, self.parents, self.index = next(_clock), (op,), index
        self.shape, self.dtype = array.shape, array.dtype


class Op(Node):
    """A differentiable primitive, and, once called with Tensors, a node of the tape."""

    broadcasts = False
    """Inputs were broadcast against each other: the engine sums gradients back to their shapes."""
    is_view = False
    """An output may share memory with the first input, so both share one version counter."""
    composite: Callable | None = None
    """For an op whose `backward` is a fused kernel: the same function from differentiable ops,
    taken in its place when gradients of gradients are asked for."""

    _saved: Sequence | None = ()  # after the call: (array, its node, version counter, its count)
    _inputs: Sequence = ()  # such entries for the inputs of an op with a composite
    has_several = False  # `forward` returned a tuple: one Output node for each of its arrays
    n_outputs = 1
    where: tuple[CodeType, int] | None = None

    def forward(self, *arrays):
        raise NotImplementedError

    def backward(self, *grads):
        raise NotImplementedError(f"{self.name} has no gradient")

    @property
    def name(self) -> str:
        return type(self).__name__

    def save(self, *arrays) -> None:
        """Keep what `backward` needs. Inputs and outputs are recognised by identity, so that
        gradients of gradients flow through them and in-place writes to them are caught: save them
        as they are, not a view of them."""
        self._saved = arrays

    @property
    def saved(self) -> tuple:
        """What `save` kept: arrays, or Tensors while a graph of the gradient is being made."""
        if self._saved is None:
            raise RuntimeError(
                f"{self.name}: its saved arrays were freed by an earlier backward; "
                "pass retain_graph=True to that one to go through the graph again"
            )
        return tuple(self._unpack(self._saved))

    @property
    def inputs(self) -> list:
        """The inputs of an op with a composite, checked as `saved` is."""
        return self._unpack(self._inputs)

    def _unpack(self, entries: Sequence) -> list:
        """The arrays of (array, node, version counter, its count then), checked; on the tape again
        while a graph is being made."""
        values = []
        for array, node, version, count in entries:
            if version is not None and version[0] != count:
                raise RuntimeError(
                    f"{self.name} at {line_of(self.where)} needs an array for its gradient that "
                    f"was overwritten in place at {line_of(version[1])}; write to x.clone()"
                )
            if state.creating_graph and node is not None:
                # An output is known by its number: a reference to its node would be a cycle.
                array = Tensor._make(array, self._output(node, array), version)
            values.append(array)
        return values

    def _output(self, node: Node | int, array) -> Node:
        if not isinstance(node, int):
            return node
        return Output(self, node, array) if self.has_several else self

    def needs_grad(self, index: int) -> bool:
        """Whether anybody asked for the gradient of this input; skip the work if not."""
        parent = self.parents[index]
        return parent is not None and (state.targets is None or parent in state.targets)

    def may_defer(self, index: int) -> bool:
        """Whether this input's gradient may be handed on as `OuterProducts`: it is one of several,
        and nobody looks at them one by one."""
        shared = self.parents[index] in state.shared
        return shared and not (state.creating_graph or state.hooks)

    def __call__(self, *inputs):
        arrays, parents = [], []
        any_tensor = any_grad = False
        for x in inputs:
            if isinstance(x, Tensor):
                any_tensor = True
                arrays.append(x.data)
                node = x.node
                if node is None and x._requires_grad:
                    node = x.node_for_grad()
                if node is not None:
                    any_grad = True
                parents.append(node)
            else:
                arrays.append(_operand(x, inputs) if isinstance(x, np.generic) else x)
                parents.append(None)
        if device.several_in_use:
            device.check_same_device(self.name, arrays)
        if any_grad and len(arrays) > 1 and (len(arrays) > 2 or arrays[0] is arrays[1]):
            _tell_apart(arrays)
        hooks = state.hooks if any_tensor else ()
        for hook in hooks:
            hook.before(self, "forward")
        try:
            outputs = self.forward(*arrays)
        except ValueError:
            if self.broadcasts:
                _check_broadcast(self.name, arrays)
            raise
        if not any_tensor:
            return outputs
        if any_grad and state.recording:
            result = self._record(inputs, arrays, parents, outputs)
        else:
            result = self._wrap(inputs, outputs)
            self._saved = ()
        for hook in hooks:
            hook.after(self, "forward", outputs if type(outputs) is tuple else (outputs,))
        return result

    def _wrap(self, inputs, outputs):
        """The outputs as Tensors that need no gradient."""
        version = inputs[0].version if self.is_view else None
        if type(outputs) is tuple:
            return tuple(Tensor._make(array, None, version) for array in outputs)
        return Tensor._make(outputs, None, version)

    def _record(self, inputs, arrays, parents, outputs):
        """Enter the tape: the outputs as Tensors with this node behind them."""
        if self.where is not None:
            raise RuntimeError(f"{self.name}: an Op is one node of the tape; make one per call")
        self.order = next(_clock)
        self.parents = parents
        self.where = caller()
        if self.composite is not None:
            self._inputs = [
                (array, node, x.version, x.version[0])
                if isinstance(x, Tensor)
                else (array, None, None, 0)
                for x, array, node in zip(inputs, arrays, parents, strict=True)
            ]
        version = inputs[0].version if self.is_view else None
        if type(outputs) is tuple:
            self.has_several, self.n_outputs = True, len(outputs)
            result = tuple(
                Tensor._make(a, Output(self, i, a), version) for i, a in enumerate(outputs)
            )
            made = list(zip(outputs, result, strict=True))
        else:
            result = Tensor._make(outputs, self, version)
            self.shape, self.dtype = result.data.shape, result.data.dtype
            made = ((outputs, result),)
        saved = []  # (array, its node, version counter, its count now)
        for array in self._saved:
            for i, data in enumerate(arrays):
                if array is data and isinstance(inputs[i], Tensor):
                    version = inputs[i].version
                    saved.append((array, parents[i], version, version[0]))
                    break
            else:
                saved.append(self._output_entry(array, made))
        self._saved = saved
        return result

    @staticmethod
    def _output_entry(array, made):
        for i, (output, tensor) in enumerate(made):
            if array is output:
                return array, i, tensor.version, tensor.version[0]
        return array, None, None, 0


def _operand(scalar: np.generic, inputs: Sequence):
    """A NumPy scalar beside an array counts as a Python number: it does not widen float32."""
    if isinstance(scalar, np.float32) or not any(
        isinstance(x, (Tensor, np.ndarray)) for x in inputs
    ):
        return scalar
    return scalar.item()


def _tell_apart(arrays: list) -> None:
    """Make inputs that are one array (`x * x.detach()`) different objects: `save` goes by them."""
    for i in range(1, len(arrays)):
        if type(arrays[i]) in device._modules:
            for j in range(i):
                if arrays[j] is arrays[i]:
                    arrays[i] = arrays[i].view()
                    break


def _check_broadcast(name: str, arrays: Sequence) -> None:
    shapes = [a.shape for a in arrays if hasattr(a, "shape")]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{name.lower()}: shapes {' and '.join(map(str, shapes))} do not broadcast: "
            "aligned at the last axis, two sizes must be equal or one of them 1"
        ) from None


class Alias(Op):
    """The same value under a node of its own."""

    is_view = True

    def forward(self, x):
        return x

    def backward(self, grad):
        return grad
