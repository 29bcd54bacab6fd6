"""Robust weights: both kinds are those of their formulas, for arrays and tensors alike."""

import numpy as np
import torch

from ssem_dask.field.robust import robust_weights, weights_of_squares


def test_weights_at_the_scale() -> None:
    residual = np.array([0.0, 2.0, 20.0])
    np.testing.assert_allclose(robust_weights(residual, scale=2.0, kind="cauchy"), [1.0, 0.5, 1 / 101])
    np.testing.assert_allclose(robust_weights(residual, scale=2.0, kind="geman_mcclure"), [1.0, 0.25, 1 / 101**2])


def test_tensors_and_scales_per_row() -> None:
    residual, scale = torch.rand(3, 5, dtype=torch.float64), torch.rand(3, 1, dtype=torch.float64) + 0.5
    found = robust_weights(residual, scale=scale, kind="cauchy")
    torch.testing.assert_close(found, weights_of_squares((residual / scale).square(), kind="cauchy"))
