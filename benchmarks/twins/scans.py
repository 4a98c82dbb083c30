"""PixelRNN's two-dimensional LSTMs as a good user of PyTorch writes them: a loop over lines.

Maps are (N, channels, H, W), gates i, f, g, o; initial states are a line of states outside of the
map, for all images or each. The equations are those of `tinygen_kernels.reference.scan`.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["diagonal_lstm", "row_lstm"]


def row_lstm(
    z: torch.Tensor,
    weight: torch.Tensor,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
) -> torch.Tensor:
    """The Row LSTM: a convolution along the row for every row.

    z (N, 4h, H, W), weight (4h, h, k), states (h, W) or None for zeros -> (N, h, H, W).
    """
    n, _, _, width = z.shape
    zeros = z.new_zeros(n, weight.shape[1], width)
    h, c = (zeros if s is None else s.expand_as(zeros) for s in (h0, c0))
    rows = []
    for z_row in z.unbind(2):
        h, c = _cell(z_row + F.conv1d(h, weight, padding=weight.shape[2] // 2), c, axis=1)
        rows.append(h)
    return torch.stack(rows, 2)


def diagonal_lstm(
    z: torch.Tensor,
    weight: torch.Tensor,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
) -> torch.Tensor:
    """The Diagonal LSTM of D maps with weights of their own: one batched product per diagonal.

    z (D, N, 4h, H, W), weight (D, 4h, h, 2), states (D, h, H) or None for zeros
    -> (D, N, h, H, W).

    The map is skewed once (a pad and two views, row i begins i columns later): a diagonal is a
    column then.
    """
    d, n, _, height, width = z.shape
    hidden = weight.shape[2]
    kernel = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (h above and h behind, 4h)
    steps = width + height - 1
    z = F.pad(z, (0, height)).flatten(3)[..., : height * steps]
    z = z.reshape(d, n, -1, height, steps).permute(4, 0, 1, 3, 2).contiguous()
    zeros = z.new_zeros(d, n, height, hidden)
    h0, c0 = (
        zeros if s is None else s.transpose(1, 2)[:, None].expand_as(zeros) for s in (h0, c0)
    )
    h, c = h0, c0
    reached = torch.ones(height, steps, dtype=torch.bool, device=z.device).triu()[..., None]
    columns = []
    for t in range(steps):
        window = torch.cat([F.pad(h[:, :, :-1], (0, 0, 1, 0)), h], -1)
        a = torch.baddbmm(z[t].flatten(1, 2), window.flatten(1, 2), kernel)
        new_h, new_c = _cell(a.view(d, n, height, -1), c, axis=-1)
        # A row that has not begun stays in its initial state.
        h, c = torch.where(reached[:, t], new_h, h0), torch.where(reached[:, t], new_c, c0)
        columns.append(h)
    h = F.pad(torch.stack(columns, -1).transpose(2, 3).flatten(3), (0, height))
    return h.reshape(d, n, hidden, height, steps + 1)[..., :width]


def _cell(a: torch.Tensor, c: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    i, f, g, o = a.chunk(4, axis)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c
