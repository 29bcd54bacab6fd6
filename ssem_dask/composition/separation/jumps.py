"""Jumps: places where the sections after are displaced against those before, and stay so.

A new block, a re-mounted one, a new knife or a changed magnification displaces all later sections alike. To the model
(`separation`) this is natural motion that is out of all proportion, once: an erratic motion s_z between z-1 and z that
is many times what erratic motion is elsewhere, and that no later section takes back. One section that is displaced by
itself is not: it comes back, and distortion stands for it.

Found as an *auxiliary residual*: the posterior mean of s_z over its standard deviation under the model,
ŝ_z / √(σ_s² - var(s_z | T)), squared and summed over the affine parameters. A large jump spoils the variances by which
it is judged, so a candidate is taken out (`SequenceModel` with a break before z), the variances are fitted again, and
only then is it judged: by how many standard deviations of the natural motion that may lie there.

Limits. A jump that natural motion could have made is not found. It takes `LEAST_PIECE` sections on either side, and
pairs across it: where several sections are lost together with the jump, nothing tells how large it is. Nothing tells it
from a stretch of tissue that was lost without a placeholder either. Only its affine part is looked at.

Source: Harvey & Koopman, J. Business & Economic Statistics 10, 1992, doi:10.1080/07350015.1992.10509913.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssem_dask.composition.separation.affine_log import GROUPS
from ssem_dask.composition.separation.likelihood import Fit
from ssem_dask.composition.separation.sequence import SequenceModel
from ssem_dask.types import Float64Array

LEAST_PIECE = 4
"""Sections on either side of a jump."""
SUSPECT = 16.0
"""Sum of squares over the six parameters from which a place is looked at; chance makes 6."""
CERTAIN = 100.0
"""The same once the variances are fitted without the jump, from which it is one. Natural motion is not quite Gaussian:
the largest in undisturbed volumes is in docs/decisions/0016."""
_MOST_ROUNDS = 8
_TRACE = 1e-4
"""Least erratic variance, in units of the noise, that a place is looked at with: the ratio has a limit, 0/0."""

FitGroup = Callable[[SequenceModel, str], Fit]
"""Fits the variances of a group of parameters to the observations of a model, without a first guess."""


@dataclass(frozen=True, slots=True)
class Break:
    """A jump before section z."""

    z: int
    jump: Float64Array
    """`(6,)` parameters of `affine_log`, px: s_z, from z to z-1."""
    surprise: float
    """Squares of standard deviations, summed over the parameters."""


@dataclass(frozen=True, slots=True)
class Breaks:
    """All jumps of a volume."""

    found: tuple[Break, ...]
    fits: dict[str, Fit]
    """Variances of each group of parameters with these jumps taken out."""


def find_breaks(
    total: Float64Array, weights: Float64Array, *, jump: float, fit: FitGroup, known: Sequence[int]
) -> Breaks:
    """Find the jumps in a volume.

    Args:
        total: T `(K, Z, 6)`, parameters of `affine_log`, px.
        weights: `(K, Z)` of the pairs.
        jump: standard deviation of a jump, px.
        fit: of one group of parameters.
        known: sections before which there is a jump for certain.
    """
    count = weights.shape[1]
    breaks = sorted({z for z in known if 0 < z < count})
    rejected: set[int] = set()
    found: tuple[Break, ...] = ()
    for left in reversed(range(_MOST_ROUNDS)):
        model = SequenceModel(weights, breaks=breaks, jump=jump)
        # Variances that were fitted with a jump in them are no good first guess, so each fit starts anew.
        fits = {name: fit(model, name) for name, _ in GROUPS}
        found = _judged(total, model, fits) if breaks else ()
        doubtful = {b.z for b in found if b.surprise < CERTAIN and b.z not in known}
        more = [] if doubtful else _suspects(total, model, fits, apart=[0, *breaks, count], rejected=rejected)
        if not doubtful and not more:
            return Breaks(found, fits)
        rejected |= doubtful
        breaks = sorted({*breaks, *more} - doubtful) if left > 1 else sorted(set(breaks) - doubtful)
    return Breaks(tuple(b for b in found if b.surprise >= CERTAIN or b.z in known), fits)


def _suspects(
    total: Float64Array, model: SequenceModel, fits: dict[str, Fit], *, apart: list[int], rejected: set[int]
) -> list[int]:
    """The most surprising places, none within `LEAST_PIECE` sections of another or of what bounds the pieces."""
    surprise = np.zeros(model.count)
    for name, members in GROUPS:
        variances = fits[name].variances
        variances = replace(variances, erratic=max(variances.erratic, _TRACE * variances.noise))
        factor = model.factor(variances)
        posterior, prior = factor.erratic_variance()
        expected = np.maximum(prior - posterior, 1e-9 * prior)
        surprise += (model.solve(total[:, :, members], variances).erratic ** 2).sum(axis=1) / expected
    found: list[int] = []
    for z in np.argsort(-surprise):
        if surprise[z] < SUSPECT:
            break
        if z not in rejected and all(abs(z - other) >= LEAST_PIECE for other in [*apart, *found]):
            found.append(int(z))
            if surprise[z] < CERTAIN:  # one doubtful place at a time: the others may be its echo
                break
    return found


def _judged(total: Float64Array, model: SequenceModel, fits: dict[str, Fit]) -> tuple[Break, ...]:
    """The model's breaks, each with its jump and how surprising it would be as natural motion."""
    jumps, surprise = np.zeros((len(model.breaks), 6)), np.zeros(len(model.breaks))
    at = list(model.breaks)
    for name, members in GROUPS:
        variances = fits[name].variances
        posterior, _ = model.factor(variances).erratic_variance()
        jumps[:, members] = model.solve(total[:, :, members], variances).erratic[at]
        surprise += (jumps[:, members] ** 2).sum(axis=1) / (posterior[at] + variances.erratic)
    return tuple(Break(z, j, float(s)) for z, j, s in zip(at, jumps, surprise, strict=True))


def placed(breaks: Sequence[Break], *, count: int) -> Float64Array:
    """What the jumps make of each section's place `(Z, 6)`, px: 0 in the longest piece, of equal ones the first."""
    steps = np.zeros((count, 6))
    for b in breaks:
        steps[b.z :] -= b.jump
    return np.asarray(steps - steps[longest_piece([b.z for b in breaks], count=count)])


def longest_piece(breaks: Sequence[int], *, count: int) -> int:
    """First section of the longest piece between breaks, of equal ones the first."""
    edges = [0, *breaks, count]
    return edges[int(np.argmax(np.diff(edges)))]
