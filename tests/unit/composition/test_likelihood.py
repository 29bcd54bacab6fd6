"""The likelihood of observations against that of their covariance, and its derivatives against differences."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ssem_dask.composition.likelihood import Likelihood
from ssem_dask.composition.separation import SequenceModel, Variances
from ssem_dask.types import Float64Array

COUNT = 9
VARIANCES = Variances(distortion=4.0, motion=1.5, correlation=0.7, noise=0.3, erratic=0.4, tilt=2.0)
OTHER = Variances(distortion=0.2, motion=2.5, correlation=0.9, noise=0.1, erratic=1.4, tilt=2.0)
NAMES = ("distortion", "motion", "noise", "erratic", "correlation")


def model_of(*, breaks: tuple[int, ...] = ()) -> SequenceModel:
    weights = np.random.default_rng(1).uniform(0.1, 1.0, size=(3, COUNT))
    weights[:, 4] = 0.0
    return SequenceModel(weights, breaks=breaks, jump=5.0)


def covariance(model: SequenceModel, variances: Variances) -> Float64Array:
    """Of the observations, from that of the unknowns."""
    lag = np.abs(np.subtract.outer(range(COUNT), range(COUNT)))
    prior = np.zeros((3 * COUNT + 1, 3 * COUNT + 1))
    prior[0:-1:3, 0:-1:3] = variances.distortion * np.eye(COUNT)
    prior[1:-1:3, 1:-1:3] = variances.motion * variances.correlation**lag
    erratic = np.full(COUNT, variances.erratic)
    erratic[list(model.breaks)] = model.jump**2
    prior[2:-1:3, 2:-1:3] = np.diag(erratic)
    prior[-1, -1] = variances.tilt**2
    design = model.design.toarray()
    return np.asarray(design @ prior @ design.T + np.diag(variances.noise / model.precision))


@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("breaks", [(), (6,)])
def test_the_likelihood_is_that_of_a_gaussian(columns: int, breaks: tuple[int, ...]) -> None:
    model = model_of(breaks=breaks)
    values = np.random.default_rng(2).normal(size=(len(model.precision), columns))
    likelihood = Likelihood(model, values)
    found = likelihood.at(VARIANCES)[0] - likelihood.at(OTHER)[0]
    expected = sum(
        sign * multivariate_normal(cov=covariance(model, v)).logpdf(values.T).sum()
        for sign, v in ((1, VARIANCES), (-1, OTHER))
    )
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("columns", [2, 50])
@pytest.mark.parametrize("breaks", [(), (6,)])
@pytest.mark.parametrize("at", [VARIANCES, OTHER])
def test_derivatives_are_those_of_the_likelihood(columns: int, breaks: tuple[int, ...], at: Variances) -> None:
    model = model_of(breaks=breaks)
    likelihood = Likelihood(model, np.random.default_rng(3).normal(size=(len(model.precision), columns)))
    _, gradient = likelihood.at(at)
    step = 1e-5
    for name, slope in zip(NAMES, gradient, strict=True):
        value = getattr(at, name)
        up, down = (
            value + sign * step if name == "correlation" else value * np.exp(sign * step) for sign in (1.0, -1.0)
        )
        ends = [likelihood.at(replace(at, **{name: float(v)}))[0] for v in (up, down)]
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-4), name
