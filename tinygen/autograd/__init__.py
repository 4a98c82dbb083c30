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

from .engine import backward, grad
from .modes import enable_grad, is_grad_enabled, no_grad, op_hook
from .op import Op

__all__ = ["Op", "backward", "enable_grad", "grad", "is_grad_enabled", "no_grad", "op_hook"]
