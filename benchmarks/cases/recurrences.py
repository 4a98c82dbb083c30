"""LSTMs along a sequence, and those of PixelRNN across a map.

FLOPs: 2 for each weight in each step of each sequence, and twice as many more for the gradients.
"""

from __future__ import annotations

from .common import FLOAT, Case, both, forward, images, normal

SEQUENCES = [(28, 64, 28, 128), (64, 32, 128, 256)]  # t, n, inputs, hidden
MAPS = [(16, 16, 28, 28)]  # n, hidden, height, width: the CPU preset of examples/pixelrnn.py
TAPS = {"row": 3, "diagonal": 2}


def lstm(t: int, n: int, i: int, h: int, gradient: bool) -> Case:
    scale = h**-0.5  # larger weights make the recurrence chaotic

    def ours(kernels, a):
        family = kernels("recurrent")
        arguments = a["x"], a["h"], a["c"], a["wi"], a["wh"]

        def compute():
            output, _, _, saved = family.lstm(*arguments, a["b"])
            if not gradient:
                return output
            zeros = a["h"] * 0
            found = family.lstm_grad(a["g"], zeros, zeros, *arguments, output, saved)
            return found[0], *found[3:6]

        return compute

    def peer(a):
        import torch

        net = torch.nn.LSTM(i, h)
        values = a["wi"], a["wh"], a["b"], 0 * a["b"]
        net.load_state_dict(dict(zip(net.state_dict(), values, strict=True)))
        state = a["h"][None], a["c"][None]

        if not gradient:
            return forward(lambda a: net(a["x"], state)[0])(a)
        wanted = [a["x"].requires_grad_(), *list(net.parameters())[:3]]
        return lambda: torch.autograd.grad(net(a["x"], state)[0], wanted, a["g"])

    return Case(
        "lstm" + " forward + grad" * gradient, {"t": t, "n": n, "i": i, "h": h},
        {
            "x": normal(t, n, i), "h": normal(n, h), "c": normal(n, h),
            "wi": normal(4 * h, i, scale=scale), "wh": normal(4 * h, h, scale=scale),
            "b": normal(4 * h), "g": normal(t, n, h),
        },
        ours, peer, flops=(3 if gradient else 1) * 2 * t * n * 4 * h * (i + h),
    )  # fmt: skip


def scan(kind: str, n: int, h: int, height: int, width: int, gradient: bool) -> Case:
    """One direction of the Diagonal BiLSTM, or the Row LSTM, after its input-to-state product."""

    def ours(kernels, a):
        family = kernels("scan")
        run, back = getattr(family, f"{kind}_lstm"), getattr(family, f"{kind}_lstm_grad")

        def compute():
            output, saved = run(a["z"], a["w"])
            if not gradient:
                return output
            return back(a["g"], a["w"], None, None, output, saved)[:2]

        return compute

    def function(a):
        from twins import scans

        if kind == "row":
            return scans.row_lstm(a["z"], a["w"])
        return scans.diagonal_lstm(a["z"][None], a["w"][None])[0]

    taps = TAPS[kind]
    # z, h, the gates and cells that are saved; with gradients those again, of z and h too
    per_pixel = 10 * h + gradient * 11 * h
    return Case(
        f"{kind} lstm" + " forward + grad" * gradient, {"n": n, "h": h, "hw": f"{height}x{width}"},
        {
            "z": images(n, 4 * h, height, width),
            "w": normal(4 * h, h, taps, scale=(taps * h) ** -0.5),
            "g": images(n, h, height, width),
        },
        ours, both(function, ["z", "w"]) if gradient else forward(function),
        bytes=FLOAT * n * height * width * per_pixel,
        flops=(3 if gradient else 1) * 2 * n * height * width * 4 * h * h * taps, images=True,
    )  # fmt: skip


CASES = [lstm(*sizes, gradient) for sizes in SEQUENCES for gradient in (False, True)]
CASES += [scan(k, *sizes, g) for k in TAPS for sizes in MAPS for g in (False, True)]
