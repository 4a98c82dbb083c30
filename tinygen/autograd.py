"""The tape: how operations are recorded, and how gradients flow back through them.

A primitive is a small class derived from `Op`: `forward` computes on arrays, `backward` (the
vector-Jacobian product) stands right below it. **Backward is written once and runs twice**: fed
arrays it computes first-order gradients and records nothing; fed Tensors (`create_graph=True`) it
records itself, and gradients of any order follow.

    class Mul(Op):
        def forward(self, a, b):
            self.save(a, b)          # each factor is the other one's derivative
            return a * b

        def backward(self, grad):
            a, b = self.saved
            return grad * b, grad * a

A call `Mul()(x, y)` with Tensors makes that instance a node of the tape; with plain arrays it only
computes. Nodes point from outputs to inputs, never back, so an unused graph is freed at once.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from . import device
from .modes import _caller, _state, enable_grad, is_grad_enabled, line_of, no_grad, op_hook
from .tensor import Tensor

__all__ = ["Op", "backward", "enable_grad", "grad", "is_grad_enabled", "no_grad", "op_hook"]

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
    """The output may share memory with the first input, so both share one version counter."""
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
            if _state.creating_graph and node is not None:
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
        return parent is not None and (_state.targets is None or parent in _state.targets)

    def may_defer(self, index: int) -> bool:
        """Whether this input's gradient may be handed on as `OuterProducts`: it is one of several,
        and nobody looks at them one by one."""
        shared = self.parents[index] in _state.shared
        return shared and not (_state.creating_graph or _state.hooks)

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
        hooks = _state.hooks if any_tensor else ()
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
        if any_grad and _state.recording:
            result = self._record(inputs, arrays, parents, outputs)
        else:
            result = self._wrap(inputs, outputs)
            self._saved = ()
        for hook in hooks:
            hook.after(self, "forward", outputs if type(outputs) is tuple else (outputs,))
        return result

    def _wrap(self, inputs, outputs):
        """The outputs as Tensors that need no gradient."""
        if type(outputs) is tuple:
            return tuple(Tensor._make(array) for array in outputs)
        return Tensor._make(outputs, None, inputs[0].version if self.is_view else None)

    def _record(self, inputs, arrays, parents, outputs):
        """Enter the tape: the outputs as Tensors with this node behind them."""
        if self.where is not None:
            raise RuntimeError(f"{self.name}: an Op is one node of the tape; make one per call")
        self.order = next(_clock)
        self.parents = parents
        self.where = _caller()
        if self.composite is not None:
            self._inputs = [
                (array, node, x.version, x.version[0])
                if isinstance(x, Tensor)
                else (array, None, None, 0)
                for x, array, node in zip(inputs, arrays, parents, strict=True)
            ]
        if type(outputs) is tuple:
            self.has_several, self.n_outputs = True, len(outputs)
            result = tuple(Tensor._make(a, Output(self, i, a)) for i, a in enumerate(outputs))
            made = list(zip(outputs, result, strict=True))
        else:
            result = Tensor._make(outputs, self, inputs[0].version if self.is_view else None)
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

    def vjp(self, grads: Sequence) -> tuple:
        """The gradients of all inputs, given those of the outputs."""
        for hook in _state.hooks:
            hook.before(self, "backward")
        if _state.creating_graph and self.composite is not None:
            _ = self.saved  # for its checks: freed, overwritten
            result = self._composite_vjp(grads)
        else:
            result = self.backward(*grads)
        if type(result) is not tuple:
            result = (result,)
        if len(result) != len(self.parents):
            raise RuntimeError(
                f"{self.name}.backward returned {len(result)} gradients for "
                f"{len(self.parents)} inputs"
            )
        for hook in _state.hooks:
            hook.after(self, "backward", result)
        return result

    def _composite_vjp(self, grads):
        # Aliases make the inputs independent of each other: if one was computed from another, the
        # path between them is already on the tape and must not be counted here as well.
        wanted = [i for i in range(len(self._inputs)) if self.needs_grad(i)]
        inputs = self._unpack(self._inputs)
        with enable_grad():
            aliases = [Alias()(x) if i in wanted else x for i, x in enumerate(inputs)]
            outputs = self.composite(*aliases)
            if type(outputs) is not tuple:
                outputs = (outputs,)
            pairs = [
                (o, g)
                for o, g in zip(outputs, grads, strict=True)
                if g is not None and isinstance(o, Tensor) and o.node_for_grad() is not None
            ]
            found = grad(
                [o for o, _ in pairs],
                [aliases[i] for i in wanted],
                [g for _, g in pairs],
                create_graph=True,
                allow_unused=True,
            )
        result: list = [None] * len(aliases)
        for i, g in zip(wanted, found, strict=True):
            result[i] = g
        return tuple(result)


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


# ------------------------------------------------------------------------------- backward passes


def backward(
    tensor: Tensor,
    gradient: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add d`tensor`/d`leaf` to `leaf.grad` for every leaf that requires a gradient.

    `gradient` (same shape) is the vector of the vector-Jacobian product; a scalar needs none.
    """
    if retain_graph is None:
        retain_graph = create_graph
    roots = _roots([tensor], [gradient], create_graph)
    _run(roots, None, retain_graph, create_graph)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
):
    """d(sum of `outputs`)/d`inputs`, without touching any `.grad`.

    Returns one Tensor for one input, else a tuple. An input that the outputs don't depend on is an
    error, or gives None with `allow_unused`. Only the part of the graph between the two is run.

    >>> import tinygen
    >>> x = tinygen.tensor(3.0, requires_grad=True)
    >>> y = tinygen.grad(x**3, x, create_graph=True)
    >>> tinygen.grad(y, x).item()
    18.0
    """
    one = isinstance(inputs, Tensor)
    inputs = [inputs] if one else list(inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    if grad_outputs is None:
        grad_outputs = [None] * len(outputs)
    elif not isinstance(grad_outputs, (list, tuple)):
        grad_outputs = [grad_outputs]
    for i, x in enumerate(inputs):
        if x.node_for_grad() is None:
            raise ValueError(f"grad: input {i} does not require a gradient (requires_grad=True)")
    if retain_graph is None:
        retain_graph = create_graph
    targets = [x.node_for_grad() for x in inputs]
    found = _run(_roots(outputs, grad_outputs, create_graph), targets, retain_graph, create_graph)
    result = []
    for i, node in enumerate(targets):
        g = found.get(node)
        if g is None and not allow_unused:
            raise ValueError(
                f"grad: the outputs do not depend on input {i}; allow_unused=True gives None"
            )
        result.append(g if g is None or isinstance(g, Tensor) else Tensor._make(g))
    return result[0] if one else tuple(result)


def _roots(outputs, gradients, create_graph) -> dict[Node, Any]:
    roots: dict[Node, Any] = {}
    for out, g in zip(outputs, gradients, strict=True):
        node = out.node_for_grad()
        if node is None:
            raise ValueError(
                "backward: this tensor depends on nothing that requires a gradient "
                "(was it made inside no_grad, or from a detached tensor?)"
            )
        if g is None:
            if out.data.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {out.shape} needs a gradient of that shape; "
                    "only for a single number it is 1 by default (reduce the loss first)"
                )
            g = device.array_module(out.data).ones_like(out.data)
        else:
            if not isinstance(g, Tensor):
                g = device.array_module(out.data).asarray(g)
            if tuple(g.shape) != out.shape:
                raise ValueError(f"backward: gradient of shape {g.shape} for shape {out.shape}")
            g = F.clone(g) if g.dtype == out.dtype else g.astype(out.dtype)
        if create_graph and not isinstance(g, Tensor):
            g = Tensor._make(g)
        elif not create_graph and isinstance(g, Tensor):
            g = g.data
        roots[node] = roots[node] + g if node in roots else g
    return roots


def _ordered(roots: Iterable[Node]) -> tuple[list[Node], set[Node]]:
    """Every node that the roots depend on, youngest first; and those that several of them read.

    No recursion, so any depth works.
    """
    seen, shared = set(roots), set()
    stack = list(seen)
    while stack:
        for parent in stack.pop().parents:
            if parent in seen:
                shared.add(parent)
            elif parent is not None:
                seen.add(parent)
                stack.append(parent)
    return sorted(seen, key=lambda node: node.order, reverse=True), shared


def _leading_to(targets: Sequence[Node], nodes: Sequence[Node]) -> set[Node]:
    """Those among `nodes` (youngest first) on a path to one of the targets."""
    wanted = set(targets)
    for node in reversed(nodes):
        if any(parent in wanted for parent in node.parents):
            wanted.add(node)
    return wanted


def _run(roots, targets, retain_graph: bool, create_graph: bool) -> dict[Node, Any]:
    """Propagate the roots' gradients: into leaves' `.grad`, or, with `targets`, return theirs."""
    nodes, shared = _ordered(roots)
    wanted = None if targets is None else _leading_to(targets, nodes)
    grads: dict[Node, Any] = dict(roots)  # of an op with several outputs, a list
    summed: set[Node] = set()  # nodes whose gradient is a sum of our own, free to be added to
    last = set(targets or ())  # gradients that are handed out: they must not share memory
    found: dict[Node, Any] = {}

    before = _state.recording, _state.creating_graph, _state.targets, _state.shared
    _state.recording = _state.creating_graph = create_graph
    _state.targets, _state.shared = wanted, shared
    try:
        for node in nodes:
            grad = grads.pop(node, None)
            if grad is None or (wanted is not None and node not in wanted):
                continue
            if type(grad) is OuterProducts:
                grad = grad.sum()
            if node in last:
                found[node] = grad
                if not any(parent in wanted for parent in node.parents):
                    continue
            kind = type(node)
            if kind is Leaf:
                if targets is None:
                    _accumulate(node, grad)
                continue
            if kind is Output:
                op = node.parents[0]
                of_outputs = grads.setdefault(op, [None] * op.n_outputs)
                known = of_outputs[node.index]
                of_outputs[node.index] = grad if known is None else known + grad
                continue
            grad = grad if node.has_several else (grad,)
            results = node.vjp(grad)
            for parent, g in zip(node.parents, results, strict=True):
                if parent is None or g is None or (wanted is not None and parent not in wanted):
                    continue
                if g.shape != parent.shape or g.dtype != parent.dtype:
                    g = _fit(g, parent, node)
                if type(g) is OuterProducts:
                    grads[parent] = g.after(grads.get(parent))
                    summed.discard(parent)
                elif parent not in grads:
                    handed_out = type(parent) is Leaf or parent in last
                    grads[parent] = (
                        F.clone(g) if handed_out and _is_shared(g, node, grad, results) else g
                    )
                elif parent in summed:
                    grads[parent] += g
                else:
                    grads[parent] = grads[parent] + g
                    if not create_graph and grads[parent].ndim:
                        summed.add(parent)
            if not retain_graph:
                node._saved, node._inputs = None, ()
    finally:
        _state.recording, _state.creating_graph, _state.targets, _state.shared = before
    return found


class OuterProducts:
    """A weight's gradient Σ gᵀ x over rows g (n, out) and x (n, in), not computed yet.

    A weight that a loop uses T times gets T of them. Kept until the last one has come, they are
    one product of all rows; at once they would be T products of a few rows, and T - 1 sums.
    """

    def __init__(self, grad, x):
        self.pairs, self.known = [(grad, x)], None
        self.shape, self.dtype = (grad.shape[1], x.shape[1]), x.dtype

    def after(self, known):
        """This and what is known already: None, an array, or other products."""
        if type(known) is OuterProducts:
            known.pairs += self.pairs
            return known
        self.known = known
        return self

    def __add__(self, array):
        return self.sum() + array

    def sum(self):
        """The gradient, (out, in)."""
        grad, x = (
            parts[0] if len(parts) == 1 else device.array_module(parts[0]).concatenate(parts)
            for parts in zip(*self.pairs, strict=True)
        )
        total = device.kernels("matmul", x).matmul(grad.T, x)
        return total if self.known is None else self.known + total


def _fit(g, parent: Node, op: Op):
    """The gradient in its input's shape and dtype."""
    if g.shape != parent.shape:
        if not op.broadcasts:
            raise RuntimeError(
                f"{op.name}.backward returned shape {g.shape} for an input of {parent.shape}"
            )
        g = F.sum_to(g, parent.shape)
    if g.dtype != parent.dtype:
        g = g.astype(parent.dtype)
    return g


def _is_shared(g, op: Op, grads: Sequence, results: Sequence) -> bool:
    """Whether a gradient may be seen under another name, so that who gets it must take a copy."""
    array = _data(g)
    if any(g is x for x in grads) or sum(g is x for x in results) > 1:
        return True
    if array.base is None or 0 in array.strides:  # memory of its own; one element at many places
        return array.base is not None
    # A view: harmless if what it views is known to nobody else, as a kernel's fresh result is.
    others = [x for x in (*grads, *results, *(entry[0] for entry in op._saved)) if x is not g]
    share = device.array_module(array).may_share_memory
    return any(share(array, _data(x)) for x in others if hasattr(x, "strides"))


def _data(x):
    return x.data if isinstance(x, Tensor) else x


def _accumulate(leaf: Leaf, g) -> None:
    tensor = leaf.tensor()
    if tensor is None:
        return
    if tensor.grad is None:
        tensor.grad = g if isinstance(g, Tensor) else Tensor._make(g)
    elif isinstance(g, Tensor) or tensor.grad.requires_grad:
        tensor.grad = tensor.grad + g  # a gradient that is on a tape itself stays as it is
    else:
        with no_grad():
            tensor.grad.add_(g)


from . import functional as F  # noqa: E402 - the ops derive from Op above; `_fit` uses `sum_to`
