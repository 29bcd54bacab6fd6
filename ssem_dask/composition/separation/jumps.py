"""Jumps: places where all later sections are displaced against those before, and stay so.

A new block, a re-mounted one, a new knife or a changed magnification displaces all later sections alike. To the model
(`sequence`) this is natural motion out of all proportion, once: an erratic motion s_z between z-1 and z that is many
times what erratic motion is elsewhere, and that no later section takes back. One section that is displaced by itself is
no jump: the next section takes it back, so it is distortion.

Jumps are found as *auxiliary residuals*: the posterior mean of s_z over its standard deviation under the model,
ŝ_z / √(σ_s² - var(s_z | T)), squared and summed over the affine parameters. A large jump spoils the variances by which
it is judged. So a candidate is taken out (`SequenceModel` with a jump before z), the variances are fitted again, and
only then is it judged: by how many standard deviations of the natural motion it is.

A jump must not rest on one section: it is judged again without the section before it, and without the one after it. A
section with a large fold looks like a jump to its own pairs, but not to those across it.

Limits. A jump that natural motion could have made is not found. A jump needs `MIN_PIECE` sections on either side, and
pairs across it: if several sections are lost together with the jump, nothing says how large it is. Nothing
distinguishes it from tissue that was lost without a placeholder either. Only its affine part is inspected.

Source: Harvey & Koopman, J. Business & Economic Statistics 10, 1992, doi:10.1080/07350015.1992.10509913.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from ssem_dask.composition.separation.affine_log import GROUPS
from ssem_dask.composition.separation.likelihood import Fit
from ssem_dask.composition.separation.sequence import SequenceModel
from ssem_dask.types import Float64Array

MIN_PIECE = 4
"""Least number of sections on either side of a jump."""
SUSPECT_SURPRISE = 16.0
"""Sum of squares over the six parameters from which a place is a candidate; chance makes 6."""
CERTAIN_SURPRISE = 100.0
"""Sum of squares from which a candidate is a jump, once the variances are fitted without it. Natural motion is not
quite Gaussian: the largest value in undisturbed volumes is in docs/decisions/0016."""
CONFIRMED_SURPRISE = 25.0
"""Sum of squares that a jump must reach without either of the sections beside it: fewer pairs are left to show it."""
CONFIRMED_SHARE = 0.5
"""Share of the jump by which it may differ then."""
_MAX_ROUNDS = 8
_LEAST_ERRATIC = 1e-4
"""Least erratic variance, in units of the noise, in the search for candidates: the ratio has a limit, 0/0."""

FitGroup = Callable[[SequenceModel, str], Fit]
"""A function that fits the variances of a group of parameters to the observations of a model, without a first guess."""


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump before section z."""

    z: int
    step: Float[Float64Array, "6"]
    """s_z, parameters of `affine_log`, px: from z to z-1."""
    surprise: float
    """Squared step in units of its variance as natural motion, summed over the parameters; χ² of 6 without a jump."""


@dataclass(frozen=True, slots=True)
class JumpSearch:
    """All jumps of a volume."""

    jumps: tuple[Jump, ...]
    fits: dict[str, Fit]
    """Variances of each group of parameters, with these jumps taken out."""


def find_jumps(
    displacements: Float[Float64Array, "K Z 6"],
    weights: Float[Float64Array, "K Z"],
    *,
    jump_sd: float,
    fit: FitGroup,
    known: Sequence[int],
    kept: Sequence[int] = (),
) -> JumpSearch:
    """Find the jumps in a volume.

    Args:
        displacements: T, parameters of `affine_log`, px.
        weights: of the pairs.
        jump_sd: standard deviation of a jump, px.
        fit: variances of one group of parameters.
        known: sections before which there certainly is a jump.
        kept: sections before which there certainly is none.
    """
    count = weights.shape[1]

    def confirmed(jump: Jump, model: SequenceModel, fits: dict[str, Fit]) -> bool:
        return jump.surprise >= CERTAIN_SURPRISE and _is_confirmed(
            displacements, weights, fits, jump=jump, jumps=model.jumps, jump_sd=jump_sd
        )

    # Known jumps are in the model from the start, and are never dropped.
    candidates = sorted({z for z in known if 0 < z < count})
    rejected = set(kept) - set(candidates)
    judged: tuple[Jump, ...] = ()
    for rounds_left in reversed(range(_MAX_ROUNDS)):
        model = SequenceModel(weights, jumps=candidates, jump_sd=jump_sd)
        # Variances that were fitted with a jump in them are a bad first guess, so each fit starts from scratch.
        fits = {name: fit(model, name) for name, _ in GROUPS}
        judged = _judge(displacements, model, fits) if candidates else ()
        certain = {j.z for j in judged if j.z in known or confirmed(j, model, fits)}
        doubtful = {j.z for j in judged} - certain
        # A doubtful candidate spoils the model, so it is dropped before others are added.
        added = (
            []
            if doubtful
            else _find_candidates(displacements, model, fits, edges=[0, *candidates, count], rejected=rejected)
        )
        if not doubtful and not added:
            return JumpSearch(judged, fits)
        rejected |= doubtful
        # The last rounds only remove candidates, so that every one that remains has been judged.
        candidates = sorted(({*candidates, *added} if rounds_left > 1 else set(candidates)) - doubtful)
    certain = {j.z for j in judged if j.z in known or confirmed(j, model, fits)}
    return JumpSearch(tuple(j for j in judged if j.z in certain), fits)


def _find_candidates(
    displacements: Float64Array, model: SequenceModel, fits: dict[str, Fit], *, edges: list[int], rejected: set[int]
) -> list[int]:
    """Return the most surprising places, none within `MIN_PIECE` sections of another or of the edge of a piece."""
    surprise = np.zeros(model.count)
    for name, members in GROUPS:
        variances = fits[name].variances
        variances = replace(variances, erratic=max(variances.erratic, _LEAST_ERRATIC * variances.noise))
        factor = model.factor(variances)
        posterior, prior = factor.erratic_variance()
        # Under the model the posterior mean of s_z has the variance prior - posterior.
        expected = np.maximum(prior - posterior, 1e-9 * prior)
        surprise += (model.solve(displacements[:, :, members], variances).erratic ** 2).sum(axis=1) / expected
    # Greedy, most surprising first: neighbours of a jump look surprising as well.
    candidates: list[int] = []
    for z in np.argsort(-surprise):
        if surprise[z] < SUSPECT_SURPRISE:
            break
        if z not in rejected and all(abs(z - other) >= MIN_PIECE for other in [*edges, *candidates]):
            candidates.append(int(z))
            if surprise[z] < CERTAIN_SURPRISE:  # one doubtful place at a time: the others may be its echo
                break
    return candidates


def _judge(displacements: Float64Array, model: SequenceModel, fits: dict[str, Fit]) -> tuple[Jump, ...]:
    """Return the model's jumps, each with its size and how surprising it would be as natural motion."""
    steps, surprise = np.zeros((len(model.jumps), 6)), np.zeros(len(model.jumps))
    z = list(model.jumps)
    for name, members in GROUPS:
        variances = fits[name].variances
        posterior, _ = model.factor(variances).erratic_variance()
        steps[:, members] = model.solve(displacements[:, :, members], variances).erratic[z]
        # The mean of s_z has its own error; both add up in the denominator.
        surprise += (steps[:, members] ** 2).sum(axis=1) / (posterior[z] + variances.erratic)
    return tuple(Jump(*jump) for jump in zip(z, steps, surprise.tolist(), strict=True))


def _is_confirmed(
    displacements: Float64Array,
    weights: Float64Array,
    fits: dict[str, Fit],
    *,
    jump: Jump,
    jumps: Sequence[int],
    jump_sd: float,
) -> bool:
    """Return whether the jump is seen without each of the two sections beside it as well.

    One spoilt section may look like a jump to all of its own pairs, but pairs across it show none. With neighbours
    alone there are no pairs across a section, and the jump stays as it was judged.
    """
    if len(weights) < 2:
        return True
    for section in (jump.z - 1, jump.z):
        without = weights.copy()
        without[:, section] = 0.0
        for k in range(1, len(without) + 1):
            if section + k < without.shape[1]:
                without[k - 1, section + k] = 0.0
        reduced = SequenceModel(without, jumps=jumps, jump_sd=jump_sd)
        (again,) = (j for j in _judge(displacements, reduced, fits) if j.z == jump.z)
        agrees = np.linalg.norm(again.step - jump.step) <= CONFIRMED_SHARE * np.linalg.norm(jump.step)
        if again.surprise < CONFIRMED_SURPRISE or not agrees:
            return False
    return True


def jump_offsets(jumps: Sequence[Jump], *, count: int) -> Float[Float64Array, "Z 6"]:
    """Return each section's displacement by the jumps, px: 0 in the longest piece, of equal ones the first."""
    offsets = np.zeros((count, 6))
    for jump in jumps:
        # s takes z to z-1; the later sections are displaced the other way.
        offsets[jump.z :] -= jump.step
    return np.asarray(offsets - offsets[longest_piece([j.z for j in jumps], count=count)])


def longest_piece(jumps: Sequence[int], *, count: int) -> int:
    """Return the first section of the longest piece between jumps, of equal ones the first."""
    edges = [0, *jumps, count]
    return edges[int(np.argmax(np.diff(edges)))]
