"""How gradients flow back over the tape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .. import device
from ..tensor import Tensor
from .gradients import OuterProducts, accumulate, fit, is_shared
from .modes import enable_grad, state
from .op import Alias, Leaf, Node, Op, Output

__all__ = ["backward", "grad"]


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
    leaves: list[tuple[Leaf, Any]] = []  # written to at the end: products may still read them

    before = state.recording, state.creating_graph, state.targets, state.shared
    state.recording = state.creating_graph = create_graph
    state.targets, state.shared = wanted, shared
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
                leaves.append((node, grad))
                continue
            if kind is Output:
                op = node.parents[0]
                of_outputs = grads.setdefault(op, [None] * op.n_outputs)
                known = of_outputs[node.index]
                of_outputs[node.index] = grad if known is None else known + grad
                continue
            grad = grad if node.has_several else (grad,)
            results = _vjp(node, grad)
            for parent, g in zip(node.parents, results, strict=True):
                if parent is None or g is None or (wanted is not None and parent not in wanted):
                    continue
                if g.shape != parent.shape or g.dtype != parent.dtype:
                    g = fit(g, parent, node)
                if type(g) is OuterProducts:
                    grads[parent] = g.after(grads.get(parent))
                    summed.discard(parent)
                elif parent not in grads:
                    handed_out = type(parent) is Leaf or parent in last
                    grads[parent] = (
                        F.clone(g) if handed_out and is_shared(g, node, grad, results) else g
                    )
                elif parent in summed:
                    grads[parent] += g
                else:
                    grads[parent] = grads[parent] + g
                    if not create_graph and grads[parent].ndim:
                        summed.add(parent)
            if not retain_graph:
                node._saved, node._inputs = None, ()
        if targets is None:
            for leaf, grad in leaves:
                accumulate(leaf, grad)
    finally:
        state.recording, state.creating_graph, state.targets, state.shared = before
    return found


def _vjp(op: Op, grads: Sequence) -> tuple:
    """The gradients of all inputs, given those of the outputs."""
    for hook in state.hooks:
        hook.before(op, "backward")
    if state.creating_graph and op.composite is not None:
        _ = op.saved  # for its checks: freed, overwritten
        result = _composite_vjp(op, grads)
    else:
        result = op.backward(*grads)
    if type(result) is not tuple:
        result = (result,)
    if len(result) != len(op.parents):
        raise RuntimeError(
            f"{op.name}.backward returned {len(result)} gradients for {len(op.parents)} inputs"
        )
    for hook in state.hooks:
        hook.after(op, "backward", result)
    return result


def _composite_vjp(op: Op, grads: Sequence) -> tuple:
    # Aliases make the inputs independent of each other: if one was computed from another, the
    # path between them is already on the tape and must not be counted here as well.
    inputs = op.inputs
    wanted = [i for i in range(len(inputs)) if op.needs_grad(i)]
    with enable_grad():
        aliases = [Alias()(x) if i in wanted else x for i, x in enumerate(inputs)]
        outputs = op.composite(*aliases)
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


from .. import functional as F  # noqa: E402 - its ops derive from Op
