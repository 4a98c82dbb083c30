"""The optimizers; their update rules stand in `tinygen_kernels.reference.optim`."""

from __future__ import annotations

from collections.abc import Iterable

from .optimizer import Optimizer

__all__ = ["SGD", "Adam", "AdamW", "Adamax", "RMSprop"]


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
