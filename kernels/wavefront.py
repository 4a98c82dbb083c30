"""The order of a two-dimensional scan: both PixelRNN scans as one recurrence over lines.

The cell state runs along lines: the columns of a Row LSTM, the rows of a diagonal scan. In step t
every active line takes its next pixel, from the hidden states that its neighbouring lines reached
in step t - 1:

    a[line] = z[pixel(t, line)] + Σ_l K_l h[line - reach + l]       l = 0 ... taps - 1

In a diagonal scan each line starts one step after the one before it, so that its upper neighbour
is one step ahead: this delay is PixelRNN's skewed map. Pixels are numbered row by row, and the
number is linear in t and the line, so no map is ever skewed.

A line that has not started yet shows its initial state, a line outside of the map zeros. Since a
window of neighbouring lines is contiguous in memory, it is one row of a matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Wavefront", "by_diagonals", "by_rows"]


class Wavefront(NamedTuple):
    """Line b is active in the steps t with 0 <= t - delay b < length. The delay is 0 or 1."""

    lines: int
    length: int
    delay: int
    taps: int
    reach: int
    origin: int
    step: int
    line: int

    def steps(self) -> int:
        """How many steps there are, each of which depends on the one before."""
        if self.lines == 0 or self.length == 0:
            return 0
        return self.length + self.delay * (self.lines - 1)

    def active(self, t: int) -> tuple[int, int]:
        """The first active line of step t, and the one after the last."""
        if self.delay == 0:
            return 0, self.lines
        return max(0, t - self.length + 1), min(self.lines, t + 1)

    def pixel(self, t: int, line: int) -> int:
        """The number of the line's pixel in step t."""
        return self.origin + t * self.step + line * self.line


def by_rows(height: int, width: int, k: int) -> Wavefront:
    """The Row LSTM with a kernel of k taps."""
    return Wavefront(
        lines=width, length=height, delay=0, taps=k, reach=k // 2,
        origin=0, step=width, line=1,
    )  # fmt: skip


def by_diagonals(height: int, width: int, reverse: bool) -> Wavefront:
    """One direction of the Diagonal BiLSTM, from the left or, in reverse, from the right."""
    return Wavefront(
        lines=height, length=width, delay=1, taps=2, reach=1,
        origin=width - 1 if reverse else 0,
        step=-1 if reverse else 1,
        line=width + 1 if reverse else width - 1,
    )  # fmt: skip
