"""Levels drawn by how large their losses have been."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossMoments(nn.Module):
    """The last losses of every level of a chain, and the law of levels that they make.

    p_i is proportional to the root of the mean square of level i's last 10 losses, of which each
    level keeps a share; it is uniform until all levels have 10. With the weights 1 / (n p_i) the
    sum of the terms of the bound is estimated without bias, and p is the law of least variance
    (Nichol and Dhariwal 2021, arXiv:2102.09672, Sec. 3.3, eq. 18, whose code mixes in a uniform of
    0.001).

    Attributes:
        losses: buffer (n, 10) in float64: each level's last losses, in a ring.
        count: buffer (n,) in int64: losses seen.
    """

    SIZE = 10
    UNIFORM = 1e-3

    losses: Tensor
    count: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(n, self.SIZE, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(n, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """Return p (n,) of the levels 1..n."""
        n = len(self.count)
        # in float64 though `model.to(torch.bfloat16)` took the buffer along: sums over levels stall
        root = self.losses.double().square().mean(1).sqrt()
        share = (1.0 - self.UNIFORM) * root / root.sum() + self.UNIFORM / n
        warm = (self.count >= self.SIZE).all() & (root.sum() > 0.0)
        return torch.where(warm, share, 1.0 / n)

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map u (B,), uniform on [0, 1), to levels (B,) from 1 to n and weights 1 / (n p) (B,)."""
        p = self.probabilities()
        edges = p.cumsum(0)
        k = torch.searchsorted(edges, u * edges[-1], right=True).clamp(max=len(p) - 1)
        return k + 1, 1.0 / (len(p) * p[k])

    @torch.no_grad()
    def update(self, levels: Tensor, losses: Tensor) -> None:
        """Note the losses (B,) of levels (B,), in order; those that are not finite are left out.

        Nothing waits for the device.
        """
        n, size = self.losses.shape
        # row n and column `size` of a wider table take what is not to be kept
        row, order = torch.where(losses.isfinite(), levels - 1, n).sort(stable=True)
        place = torch.arange(len(row), device=row.device)
        seen = place - torch.searchsorted(row, row)
        to_come = torch.searchsorted(row, row, right=True) - 1 - place
        count = torch.nn.functional.pad(self.count, (0, 1))
        slot = torch.where(to_come < size, (count[row] + seen) % size, size)
        table = torch.nn.functional.pad(self.losses, (0, 1, 0, 1))
        table[row, slot] = losses[order].to(table.dtype)
        self.losses.copy_(table[:n, :size])
        self.count.copy_(count.index_add(0, row, torch.ones_like(row))[:n])
