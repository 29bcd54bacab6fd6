"""Points that a person has given between two sections, as observations of their pair field.

A point says that what is at p of the fixed section is at p + d of the moving one, give or take its standard deviation.
It is one more residual of the least squares, u(p) - d. Its weight is that of all pixels within the smoothness length L
times (e / sd)², with e the usual error of a match: so a point that is as exact as a match counts as much as the match.

A match that contradicts a point by several standard deviations is wrong, not inexact. Around the point, up to about
twice L, its pixels lose their weight, and get it back as the field comes near the point. Farther off, the field
follows the pixels again: the influence of a point fades with the smoothness of the field.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample_batch
from ssem_dask.registration.gauss_newton.normal_equations import NormalEquations

MATCH_ERROR_PX = 2.0
"""e: usual error of a match, px of the working image."""
_MAX_WEIGHT = 16.0
"""Weight of a point at most, relative to a match: rounding to a pixel is an error too."""
_CONTRADICTION = 3.0
"""Standard deviations at which a match that contradicts a point has lost half of its weight."""
_REACH = 2.0
"""Distance, in L, up to which such a match loses its weight."""
_START_REACH = 4.0
"""Distance, in L, over which the start of the search follows the points."""


@dataclass(frozen=True, slots=True)
class PairPoints:
    """Points of one pair."""

    positions: Float[Tensor, "m 2"]
    """p, mip-0 px, in the frame of the fields."""
    displacements: Float[Tensor, "m 2"]
    """d, mip-0 px."""
    sd: Float[Tensor, "m"]
    """Standard deviation per component, mip-0 px."""

    @property
    def reversed(self) -> "PairPoints":
        """These points as observations of the opposite pair."""
        return PairPoints(self.positions + self.displacements, -self.displacements, self.sd)

    def residuals(self, field: Float[Tensor, "2 y x"], nodes: Grid) -> Float[Tensor, "m"]:
        """Return the distances between a field and the points, in standard deviations; NaN where it is unknown."""
        values = sample_batch(field[None], grid=nodes, positions=self.positions.T[None, :, :, None])[0, :, :, 0]
        distance: Tensor = torch.linalg.vector_norm(values.T - self.displacements, dim=1)
        return distance / self.sd


@dataclass(frozen=True, slots=True)
class PointBatch:
    """Points of a batch of pairs, padded to the same number."""

    positions: Float[Tensor, "n m 2"]
    displacements: Float[Tensor, "n m 2"]
    sd: Float[Tensor, "n m"]
    known: Float[Tensor, "n m"]
    """0 for a point that only pads."""

    @classmethod
    def of(cls, points: Sequence[PairPoints], *, device: torch.device | str) -> "PointBatch":
        """Pad the points of some pairs."""
        most = max(len(each.sd) for each in points)
        shape = len(points), most
        positions, displacements = torch.zeros(*shape, 2), torch.zeros(*shape, 2)
        sd, known = torch.ones(shape), torch.zeros(shape)
        for i, each in enumerate(points):
            m = len(each.sd)
            positions[i, :m], displacements[i, :m], sd[i, :m], known[i, :m] = (
                each.positions,
                each.displacements,
                each.sd,
                1.0,
            )
        return cls(*(values.to(device) for values in (positions, displacements, sd, known)))

    def with_points(
        self, fields: Float[Tensor, "n 2 y x"], *, nodes: Grid, smoothness_px: float
    ) -> Float[Tensor, "n 2 y x"]:
        """Return fields on nodes that lead to the points, and farther off where they led before.

        Args:
            fields: the start, mip-0 px.
            nodes: its grid.
            smoothness_px: L, mip-0 px.
        """
        missing = self.displacements - _at_points(fields, nodes, self.positions)
        near = self._nearness(nodes.positions(fields.device), reach=_START_REACH * smoothness_px)
        total = near.sum(dim=1, keepdim=True).clamp(min=1.0)
        return fields + torch.einsum("nmyx,nmc->ncyx", near / total, missing)

    def trust(
        self,
        fields: Float[Tensor, "n 2 y x"],
        *,
        nodes: Grid,
        positions: Float[Tensor, "2 h w"],
        smoothness_px: float,
        pixel: float,
    ) -> Float[Tensor, "n h w"]:
        """Return the share of its weight that each pixel keeps beside the points.

        Args:
            fields: present fields, mip-0 px.
            nodes: their grid.
            positions: of the pixels, mip-0 px.
            smoothness_px: L, mip-0 px.
            pixel: mip-0 px per px of the working image.
        """
        error = self.displacements - _at_points(fields, nodes, self.positions)
        allowed = _CONTRADICTION * self.sd.clamp(min=pixel)
        square = error.square().sum(dim=2)
        contradicted = self.known * square / (square + allowed.square())
        near = self._nearness(positions, reach=_REACH * smoothness_px)
        return (1.0 - contradicted[:, :, None, None] * near).prod(dim=1)

    def observe(
        self, u: Float[Tensor, "n 2 ny nx"], *, nodes: Grid, unit: float, match: Float[Tensor, "n"], pixel: float
    ) -> tuple[Float[Tensor, "n ny nx"], Float[Tensor, "n 2 ny nx"]]:
        """Return what the points add to the diagonal of T, and to b.

        Args:
            u: present displacements, feature px.
            nodes: their grid.
            unit: mip-0 px per feature px.
            match: weight of all pixels within L, for each pair.
            pixel: mip-0 px per px of the working image.
        """
        weight = (MATCH_ERROR_PX * pixel / self.sd).square().clamp(max=_MAX_WEIGHT) * self.known * match[:, None]
        index, share = _corners(nodes, self.positions)
        size = nodes.shape[0] * nodes.shape[1]
        both = index.flatten(1)[:, None].expand(-1, 2, -1)
        corners = u.flatten(2).gather(2, both).reshape(len(u), 2, *index.shape[1:])
        values = (corners * share[:, None]).sum(dim=3)
        residual = values - self.displacements.transpose(1, 2) / unit
        parts = share * weight[:, :, None]
        diagonal = u.new_zeros(len(u), size).scatter_add_(1, index.flatten(1), parts.flatten(1))
        pulled = (parts[:, None] * residual[..., None]).flatten(2)
        b = u.new_zeros(len(u), 2, size).scatter_add_(2, both, pulled)
        return diagonal.reshape(len(u), *nodes.shape), b.reshape(len(u), 2, *nodes.shape)

    def confidence(self, nodes: Grid, *, smoothness_px: float, pixel: float) -> Float[Tensor, "n ny nx"]:
        """Return the least confidence of nodes beside the points, 0 to 1."""
        exact = (2 * MATCH_ERROR_PX * pixel / self.sd).square().clamp(max=1.0)
        near = self._nearness(nodes.positions(self.sd.device), reach=smoothness_px)
        return (near * exact[:, :, None, None]).amax(dim=1)

    def _nearness(self, positions: Tensor, *, reach: float) -> Float[Tensor, "n m y x"]:
        """Return exp(-½ (distance / reach)²) of positions `(2, y, x)` to each point; 0 for padding."""
        y = positions[0] - self.positions[:, :, 0, None, None]
        x = positions[1] - self.positions[:, :, 1, None, None]
        return torch.exp(-0.5 * (y.square() + x.square()) / reach**2) * self.known[:, :, None, None]


@dataclass(frozen=True, slots=True)
class LevelPoints:
    """Points of a batch of pairs at one level of the solver."""

    batch: PointBatch
    nodes: Grid
    smoothness: float
    """L, px of the working image."""
    pixel: float
    """mip-0 px per px of the working image."""

    def trust(self, fields: Float[Tensor, "n 2 ny nx"], *, positions: Float[Tensor, "2 h w"]) -> Float[Tensor, "n h w"]:
        """Return the share of its weight that each pixel keeps, see `PointBatch.trust`."""
        return self.batch.trust(
            fields,
            nodes=self.nodes,
            positions=positions,
            smoothness_px=self.smoothness * self.pixel,
            pixel=self.pixel,
        )

    def added_to(
        self, equations: NormalEquations, *, u: Float[Tensor, "n 2 ny nx"], unit: float, cell: float
    ) -> NormalEquations:
        """Return the equations with the points as further observations.

        Args:
            equations: T and b of the images.
            u: present displacements, feature px.
            unit: mip-0 px per feature px.
            cell: area of a node's cell, feature px².
        """
        area = math.pi * (self.smoothness * self.pixel / unit) ** 2
        match = equations.stiffness.flatten() / cell * area
        diagonal, b = self.batch.observe(u, nodes=self.nodes, unit=unit, match=match, pixel=self.pixel)
        return replace(equations, yy=equations.yy + diagonal, xx=equations.xx + diagonal, b=equations.b + b)


def _at_points(fields: Tensor, nodes: Grid, positions: Tensor) -> Tensor:
    """Return fields `(n, 2, y, x)` at positions `(n, m, 2)`, as `(n, m, 2)`."""
    sampled = sample_batch(fields, grid=nodes, positions=positions.transpose(1, 2)[..., None])
    return sampled[..., 0].transpose(1, 2)


def _corners(nodes: Grid, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flat indices `(n, m, 4)` of the nodes around positions, and their bilinear shares."""
    height, width = nodes.shape
    # Node i is at origin + (i + ½) spacing (C3); beyond the last node its value is kept.
    y = ((positions[..., 0] - nodes.origin[0]) / nodes.spacing - 0.5).clamp(0.0, height - 1.0)
    x = ((positions[..., 1] - nodes.origin[1]) / nodes.spacing - 0.5).clamp(0.0, width - 1.0)
    top, left = y.floor().clamp(max=max(0, height - 2)), x.floor().clamp(max=max(0, width - 2))
    below, right = y - top, x - left
    rows = torch.stack([top, top, (top + 1).clamp(max=height - 1), (top + 1).clamp(max=height - 1)], dim=-1)
    columns = torch.stack([left, (left + 1).clamp(max=width - 1), left, (left + 1).clamp(max=width - 1)], dim=-1)
    shares = torch.stack([(1 - below) * (1 - right), (1 - below) * right, below * (1 - right), below * right], dim=-1)
    return (rows * width + columns).long(), shares


def both_ways(points: Mapping[tuple[int, int], PairPoints]) -> dict[tuple[int, int], PairPoints]:
    """Return points by pair, in both directions."""
    return {**{(b, a): each.reversed for (a, b), each in points.items()}, **points}
