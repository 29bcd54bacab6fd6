"""Separation of distortion from natural motion, on sequences whose distortion and motion are known."""

import numpy as np
import pytest
import torch

from ssem_dask.composition.relax.relax_config import RelaxConfig
from ssem_dask.composition.relax.section_fields import relax
from ssem_dask.composition.relax.spectra import Bands, from_spectrum, to_spectrum
from ssem_dask.composition.separation.affine_log import from_parameters, to_parameters
from ssem_dask.composition.separation.affine_separation import separate_affines
from ssem_dask.composition.separation.likelihood import evidence_of_distortion, fit_variances
from ssem_dask.composition.separation.sequence import (
    DISPLACED_EVIDENCE,
    SequenceModel,
    Variances,
    certainty_from_evidence,
    regularised_variances,
)
from ssem_dask.field.affine import IDENTITY
from ssem_dask.types import Float64Array
from tests.support.relaxed_sequences import (
    NODES,
    SPACING,
    compose_pairs,
    motion,
    natural_fields,
    observed,
    smooth_fields,
    still,
)

SHAPE = (400, 500)
THICKNESS = 8.0


def rms(values: Float64Array) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_affine_parameters_and_maps_are_inverse() -> None:
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=(20, 6)) * [40, 40, 30, 5, 5, 5]
    back = to_parameters(from_parameters(parameters, shape_yx=SHAPE), shape_yx=SHAPE)
    np.testing.assert_allclose(back, parameters, atol=1e-6)


def test_variances_are_found_and_distortion_comes_back() -> None:
    rng = np.random.default_rng(1)
    count = 120
    d, m = rng.normal(size=(count, 8)) * 3.0, motion(rng, count, 8, sigma=1.0)
    total = observed(d, m, 2) + rng.normal(size=(2, count, 8)) * 0.1
    model = SequenceModel(np.ones((2, count)))
    fit = fit_variances(model, total, start=None, expected=None, tilt=None, distorted=True)
    fitted = fit.variances
    assert fitted.distortion**0.5 == pytest.approx(3.0, rel=0.15)
    assert fitted.motion**0.5 == pytest.approx(1.0, rel=0.4)
    assert fitted.correlation == pytest.approx(0.9, abs=0.08)
    found = model.solve(total, fitted).distortion
    jitter = np.diff(found - d, axis=0)
    assert rms(jitter) < 0.2 * rms(np.diff(d, axis=0))
    assert evidence_of_distortion(model, total, fitted=fit, expected=None, tilt=None) > DISPLACED_EVIDENCE * count


@pytest.mark.parametrize(("erratic", "most"), [(0.0, 0.01), (1.0, 0.1), (3.0, 0.3)])
@pytest.mark.parametrize("count", [10, 60])
def test_without_distortion_little_is_undone(count: int, erratic: float, most: float) -> None:
    """Nothing of motion that is correlated along z; of erratic motion, twice as large as is expected, a part."""
    for seed in range(4):
        rng = np.random.default_rng(20 + seed)
        steps = motion(rng, count, 8, sigma=2.0) + rng.normal(size=(count, 8)) * erratic
        total = observed(np.zeros((count, 8)), steps, 2) + rng.normal(size=(2, count, 8)) * 0.2
        model = SequenceModel(np.ones((2, count)))
        fit = fit_variances(model, total, start=None, expected=None, tilt=None, distorted=True)
        evidence = evidence_of_distortion(model, total, fitted=fit, expected=None, tilt=None)
        assert evidence < 4.0
        certainty = certainty_from_evidence(evidence, pairs=count - 1)
        assert rms(
            model.solve(total, regularised_variances(fit.variances, certainty=certainty)).distortion
        ) < most * rms(steps)


def test_erratic_motion_is_told_from_distortion() -> None:
    rng = np.random.default_rng(30)
    count = 120
    d, m = rng.normal(size=(count, 8)) * 2.0, motion(rng, count, 8, sigma=1.0)
    total = observed(d, m + rng.normal(size=(count, 8)) * 1.5, 3) + rng.normal(size=(3, count, 8)) * 0.1
    fit = fit_variances(SequenceModel(np.ones((3, count))), total, start=None, expected=None, tilt=None, distorted=True)
    assert fit.variances.distortion**0.5 == pytest.approx(2.0, rel=0.15)
    assert fit.variances.erratic**0.5 == pytest.approx(1.5, rel=0.25)


@pytest.mark.parametrize("lost", [False, True])
def test_sections_affines_undo_distortion_only(lost: bool) -> None:
    rng = np.random.default_rng(3)
    count = 60
    d = rng.normal(size=(count, 6)) * [10, 10, 4, 1, 1, 1]
    m = motion(rng, count, 6, sigma=0.8)
    sections = _matrices(from_parameters(d, shape_yx=SHAPE))
    pairs = np.full((2, count, 2, 3), np.nan)
    for k in (1, 2):
        for z in range(k, count):
            step = _matrices(from_parameters(m[z - k + 1 : z + 1].sum(axis=0), shape_yx=SHAPE))
            pairs[k - 1, z] = (sections[z - k] @ step @ np.linalg.inv(sections[z]))[:2]
    if lost:
        pairs[0, 20] = [[1.0, 0.0, 90.0], [0.0, 1.0, -50.0]]  # wrong, and nothing says so
        pairs[0, 40:42] = np.nan
    weights = np.isfinite(pairs).all(axis=(2, 3)).astype(np.float64)
    found = separate_affines(pairs, weights, shape_yx=SHAPE, thickness=THICKNESS, certainty=1.0)
    left = to_parameters(found.sections, shape_yx=SHAPE) - d
    assert rms(np.diff(left, axis=0)[:, :2]) < (2.0 if lost else 1.0)
    if lost:
        assert found.robust[0, 20] < 0.05


@pytest.mark.slow
def test_undeformed_sections_stay_undeformed() -> None:
    rng = np.random.default_rng(4)
    natural = natural_fields(rng, 40, sigma=3.0)
    pairs, confidence = compose_pairs(observed(np.zeros_like(natural), natural, 2))
    result = relax(pairs, confidence, coarse=still(40), spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())
    assert float(result.fields.abs().max()) < 0.02
    assert result.certainty < 0.01


@pytest.mark.slow
def test_distortion_is_undone_and_motion_is_kept() -> None:
    d, found = _relaxed(seed=5)
    error = np.diff(found - d, axis=0)
    assert rms(error) < 0.35 * rms(np.diff(d, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("missing", [(20,), (20, 21)])
def test_sections_that_nothing_is_known_of_are_bridged(missing: tuple[int, ...]) -> None:
    d, found = _relaxed(seed=6, missing=missing)
    rest = np.delete(found - d, missing, axis=0)
    assert np.isfinite(found).all()
    assert rms(np.diff(rest, axis=0)) < 0.4 * rms(np.diff(d, axis=0))


@pytest.mark.slow
def test_a_wrong_pair_field_is_outweighed() -> None:
    d, clean = _relaxed(seed=7)
    _, found = _relaxed(seed=7, wrong=15)
    assert rms(found - clean) < 0.35 * rms(d)


def test_few_sections_are_made_to_match() -> None:
    d, found = _relaxed(seed=8, count=5, sigma=0.0)
    assert rms(np.diff(found - d, axis=0)) < 0.3 * rms(np.diff(d, axis=0))


def test_a_node_without_worth_is_as_one_that_is_unknown() -> None:
    """So that windows which differ in the last digit of a confidence do not differ in the field (decision 0023)."""
    count = 4
    distortion = smooth_fields(np.random.default_rng(5), count, sigma=3.0)
    pairs, confidence = compose_pairs(observed(distortion, np.zeros_like(distortion), 2))
    for k in range(2):
        pairs[k, k + 1 :, :, 6, 7] += 8.0  # what such a node says may be anything
        confidence[k, k + 1 :, 6, 7] = 0.0
    unknown = relax(pairs, confidence, coarse=still(count), spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())
    confidence[confidence == 0] = 1e-7
    doubtful = relax(pairs, confidence, coarse=still(count), spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())
    assert (unknown.fields - doubtful.fields).abs().max() < 0.5


def test_natural_motion_is_removed_where_that_is_wanted() -> None:
    rng = np.random.default_rng(11)
    natural = natural_fields(rng, 20, sigma=1.0)
    pairs, confidence = compose_pairs(observed(np.zeros_like(natural), natural, 2))
    left = {}
    for wanted in ("keep", "remove"):
        config = RelaxConfig(natural_motion=wanted)
        result = relax(pairs, confidence, coarse=still(20), spacing=SPACING, thickness=THICKNESS, config=config)
        fields = result.fields.double().numpy()
        # What a section's field moves its neighbour by, and what lay between them.
        left[wanted] = rms((fields[:-1] - fields[1:] - natural[1:])[:, :, 2:-2, 2:-2])
    assert left["remove"] < 0.3 * left["keep"]


def test_few_sections_are_made_to_match_in_their_affine_part_too() -> None:
    rng = np.random.default_rng(10)
    y, x = np.mgrid[: NODES[0], : NODES[1]] / 12.0 - 0.5
    slopes = rng.normal(size=(6, 2, 3)) * 4.0
    d = slopes[:, :, 0, None, None] + slopes[:, :, 1, None, None] * y + slopes[:, :, 2, None, None] * x
    pairs, confidence = compose_pairs(observed(d, np.zeros_like(d), 3))
    result = relax(pairs, confidence, coarse=still(6), spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())
    assert rms(np.diff(result.fields.double().numpy() - d, axis=0)) < 0.15 * rms(np.diff(d, axis=0))
    assert not result.band_variances


def test_shifts_of_a_dozen_sections_that_happen_to_run_slowly_are_not_taken_for_motion() -> None:
    model = SequenceModel(np.ones((2, 14)))
    errors: list[float] = []
    blind: list[float] = []
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        d = rng.uniform(-15, 15, size=(14, 2))
        total = observed(d, motion(rng, 14, 2, sigma=0.4), 2) + rng.normal(size=(2, 14, 2)) * 0.2
        for expected, out in ((0.4, errors), (None, blind)):
            fit = fit_variances(model, total, start=None, expected=expected, tilt=None, distorted=True)
            evidence = evidence_of_distortion(model, total, fitted=fit, expected=expected, tilt=None)
            certainty = certainty_from_evidence(evidence, pairs=13)
            variances = fit.variances if expected is None else regularised_variances(fit.variances, certainty=certainty)
            out.append(rms(np.diff(model.solve(total, variances).distortion - d, axis=0)))
    assert max(errors) < 1.2
    assert max(errors) < 0.7 * max(blind)


@pytest.mark.parametrize("shape", [(3, 4), (12, 14), (40, 7)])
def test_every_coefficient_has_a_band(shape: tuple[int, int]) -> None:
    bands = Bands.of(shape)
    assert set(np.unique(bands.index)) == set(range(bands.count))
    values = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(from_spectrum(to_spectrum(values)), values, atol=1e-12)


def _relaxed(
    *, seed: int, count: int = 40, sigma: float = 1.0, missing: tuple[int, ...] = (), wrong: int | None = None
) -> tuple[Float64Array, Float64Array]:
    """Known distortion, and what was found."""
    rng = np.random.default_rng(seed)
    d = smooth_fields(rng, count, sigma=3.0)
    values = observed(d, natural_fields(rng, count, sigma=1.0) * sigma, 3)
    values += rng.normal(size=values.shape) * 0.02
    if wrong is not None:
        values[0, wrong] += 25.0 * smooth_fields(rng, 1, sigma=1.0)[0]
    pairs, confidence = compose_pairs(values)
    for z in missing:
        pairs[:, z] = torch.nan
        for k in (1, 2, 3):
            pairs[k - 1, z + k] = torch.nan
    result = relax(pairs, confidence, coarse=still(count), spacing=SPACING, thickness=THICKNESS, config=RelaxConfig())
    return d, result.fields.double().numpy()


def _matrices(affines: Float64Array) -> Float64Array:
    last = np.broadcast_to([[0.0, 0.0, 1.0]], (*affines.shape[:-2], 1, 3))
    return np.concatenate([affines, last], axis=-2)


def test_erratic_motion_is_doubted_as_far_as_there_is_distortion() -> None:
    """Half of it (rms) at most, and none if sections were not displaced."""
    kept = [
        regularised_variances(Variances(distortion, 4.0, 0.8, 0.1, erratic=1.0), certainty=0.0).erratic
        for distortion in (0.0, 1e-6, 1.0, 4.0, 1e6)
    ]
    assert kept[0] == 1.0
    assert kept == sorted(kept, reverse=True)
    assert kept[2] == pytest.approx(1.0 - 0.5 * 0.75)
    assert kept[-1] == pytest.approx(0.25, abs=1e-4)
    assert regularised_variances(Variances(0.0, 4.0, 0.8, 0.1, erratic=1.0), certainty=1.0).erratic == pytest.approx(
        0.25
    )


@pytest.mark.parametrize("count", [2, 12])
def test_sections_of_which_no_pair_is_known_stay_as_they_came(count: int) -> None:
    pairs = torch.full((3, count, 2, 6, 6), torch.nan)
    found = relax(
        pairs,
        torch.zeros(3, count, 6, 6),
        coarse=np.tile(IDENTITY, (count, 1, 1)),
        spacing=16.0,
        thickness=10.0,
        config=RelaxConfig(),
    )
    assert not found.fields.any()
    assert found.unobserved.all()
