"""Banded matrices against dense ones."""

import numpy as np
import pytest
from numpy.linalg import LinAlgError

from ssem_dask.composition.separation.banded import BandedCholesky
from ssem_dask.types import Float64Array


def matrix(size: int, *, bands: int) -> tuple[Float64Array, Float64Array]:
    """Dense, and its lower band."""
    rng = np.random.default_rng(size)
    near = np.subtract.outer(range(size), range(size)) <= bands
    lower = np.tril(rng.normal(size=(size, size))) * near + 4 * np.eye(size)
    dense = lower @ lower.T
    return dense, np.stack([np.pad(np.diagonal(dense, -o), (0, min(o, size))) for o in range(bands + 1)])


@pytest.mark.parametrize("width", [0, 2, 7, 20])
@pytest.mark.parametrize(("size", "bands"), [(12, 3), (13, 3), (31, 2), (61, 3), (2, 1), (5, 0), (1, 0)])
def test_the_band_of_the_inverse_is_that_of_the_dense_inverse(size: int, bands: int, width: int) -> None:
    dense, banded = matrix(size, bands=bands)
    found = BandedCholesky(banded).inverse_band(width=width)
    expected = np.linalg.inv(dense)
    assert found.shape == (width + 1, size)
    for offset in range(width + 1):
        kept = max(size - offset, 0)
        np.testing.assert_allclose(found[offset, :kept], np.diagonal(expected, -offset)[:kept], atol=1e-12)
        assert not found[offset, kept:].any()


@pytest.mark.parametrize(("size", "bands"), [(12, 3), (13, 3), (61, 3), (40, 11), (2, 1), (5, 0), (1, 0)])
@pytest.mark.parametrize("columns", [5, 20])
def test_solutions_are_those_of_the_dense_matrix(size: int, bands: int, columns: int) -> None:
    """Few columns are left to LAPACK, more are solved for by blocks."""
    dense, banded = matrix(size, bands=bands)
    factor = BandedCholesky(banded)
    right = np.random.default_rng(0).normal(size=(size, columns))
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(dense, right), atol=1e-12)
    np.testing.assert_allclose(factor.solve(right[:, 0]), np.linalg.solve(dense, right[:, 0]), atol=1e-12)
    assert factor.logdet == pytest.approx(np.linalg.slogdet(dense)[1])


def test_a_matrix_that_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(LinAlgError):
        BandedCholesky(np.array([[1.0, -1.0, 1.0]]))
