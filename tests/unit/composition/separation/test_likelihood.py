"""The likelihood of observations against that of their covariance, and its derivatives against differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ssem_dask.composition.separation.dense_likelihood import DenseLikelihood
from ssem_dask.composition.separation.likelihood import BandedLikelihood
from ssem_dask.composition.separation.sequence import SequenceModel, Variances
from ssem_dask.types import Float64Array

COUNT = 9
VARIANCES = Variances(distortion=4.0, motion=1.5, correlation=0.7, noise=0.3, erratic=0.4, tilt=2.0)
OTHER = Variances(distortion=0.2, motion=2.5, correlation=0.9, noise=0.1, erratic=1.4, tilt=2.0)
NAMES = ("distortion", "motion", "noise", "erratic", "correlation")


EITHER = pytest.mark.parametrize("kind", [BandedLikelihood, DenseLikelihood])
FEW, LOST, ALL = 1, 2, 3
"""Pairs: fewer than sections, none with section 4, none from it."""


def model_of(*, jumps: tuple[int, ...] = (), pairs: int = ALL) -> SequenceModel:
    weights = np.random.default_rng(1).uniform(0.1, 1.0, size=(3, COUNT))
    weights[:, 4] = 0.0
    if pairs == LOST:
        weights[[0, 1, 2], [5, 6, 7]] = 0.0
    if pairs == FEW:
        weights[1:] = 0.0
    return SequenceModel(weights, jumps=jumps, jump_sd=5.0)


def covariance(model: SequenceModel, variances: Variances) -> Float64Array:
    """Return the covariance of the observations, from that of the unknowns."""
    lag = np.abs(np.subtract.outer(range(COUNT), range(COUNT)))
    prior = np.zeros((3 * COUNT + 1, 3 * COUNT + 1))
    prior[0:-1:3, 0:-1:3] = variances.distortion * np.eye(COUNT)
    prior[1:-1:3, 1:-1:3] = variances.motion * variances.correlation**lag
    erratic = np.full(COUNT, variances.erratic)
    erratic[list(model.jumps)] = model.jump_sd**2
    prior[2:-1:3, 2:-1:3] = np.diag(erratic)
    prior[-1, -1] = variances.tilt**2
    design = model.design.toarray()
    return np.asarray(design @ prior @ design.T + np.diag(variances.noise / model.precision))


@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("jumps", [(), (6,)])
@pytest.mark.parametrize("pairs", [FEW, LOST, ALL])
@EITHER
def test_the_likelihood_is_that_of_a_gaussian(
    columns: int, jumps: tuple[int, ...], pairs: int, kind: type[BandedLikelihood] | type[DenseLikelihood]
) -> None:
    model = model_of(jumps=jumps, pairs=pairs)
    values = np.random.default_rng(2).normal(size=(len(model.precision), columns))
    likelihood = kind(model, values)
    found = likelihood.at(VARIANCES)[0] - likelihood.at(OTHER)[0]
    expected = sum(
        sign * multivariate_normal(cov=covariance(model, v)).logpdf(values.T).sum()
        for sign, v in ((1, VARIANCES), (-1, OTHER))
    )
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("jumps", [(), (6,)])
@pytest.mark.parametrize("at", [VARIANCES, OTHER])
@EITHER
def test_derivatives_are_those_of_the_likelihood(
    columns: int, jumps: tuple[int, ...], at: Variances, kind: type[BandedLikelihood] | type[DenseLikelihood]
) -> None:
    model = model_of(jumps=jumps)
    likelihood = kind(model, np.random.default_rng(3).normal(size=(len(model.precision), columns)))
    _, gradient = likelihood.at(at)
    step = 1e-5
    for name, slope in zip(NAMES, gradient, strict=True):
        value = getattr(at, name)
        up, down = (
            value + sign * step if name == "correlation" else value * np.exp(sign * step) for sign in (1.0, -1.0)
        )
        ends = [likelihood.at(replace(at, **{name: float(v)}))[0] for v in (up, down)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-4), name


@pytest.mark.parametrize("columns", [1, 3, 70])
@pytest.mark.parametrize("jumps", [(), (6, 30)])
def test_short_sequences_have_the_likelihood_of_long_ones(columns: int, jumps: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    weights = rng.uniform(0.01, 1.0, size=(3, 60)) * (rng.random((3, 60)) > 0.2)
    for k, z in ((0, 21), (1, 22), (2, 23)):  # no pair knows section 20
        weights[k, [20, z]] = 0.0
    model = SequenceModel(weights, jumps=jumps, jump_sd=1e4)
    values = rng.normal(size=(len(model.precision), columns))
    short, long = DenseLikelihood(model, values), BandedLikelihood(model, values)
    for at in (VARIANCES, OTHER, replace(VARIANCES, distortion=1e-6, tilt=100.0), replace(OTHER, noise=1e-3)):
        (value, gradient), (expected, slopes) = short.at(at), long.at(at)
        assert value == pytest.approx(expected, rel=1e-10)
        np.testing.assert_allclose(gradient, slopes, rtol=1e-8, atol=1e-9 * np.abs(slopes).max())


def test_a_variance_of_nothing_does_no_harm() -> None:
    model = model_of()
    likelihood = BandedLikelihood(model, np.ones((len(model.precision), 2)))
    value, gradient = likelihood.at(replace(VARIANCES, erratic=0.0))
    assert np.isfinite(value)
    assert gradient[3] == 0.0
