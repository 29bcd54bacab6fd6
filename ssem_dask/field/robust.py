"""Weights of iteratively reweighted least squares (IRLS): the farther off an observation is, the less it counts.

With r the residual over the scale c:

    Cauchy           w = 1 / (1 + r²)        an outlier keeps a pull that falls off as 1/r
    Geman-McClure    w = 1 / (1 + r²)²       its pull falls off as 1/r³: outliers vanish

At r = 1 an observation has 1/2 of its weight with Cauchy's, 1/4 with Geman and McClure's.

Source: Holland & Welsch, Communications in Statistics A6, 1977, doi:10.1080/03610927708827533; Geman & McClure,
Bulletin of the International Statistical Institute 52, 1987.
"""

from typing import Literal, TypeVar

from torch import Tensor

from ssem_dask.types import Float64Array

Kind = Literal["cauchy", "geman_mcclure"]
_Values = TypeVar("_Values", Tensor, Float64Array)


def robust_weights(residual: _Values, *, scale: float | _Values, kind: Kind) -> _Values:
    """Return the weights, 0 to 1, of residuals.

    Args:
        residual: any shape, any unit.
        scale: c, in the same unit.
        kind: how fast the weight falls off.
    """
    return weights_of_squares((residual / scale) ** 2, kind=kind)


def weights_of_squares(squares: _Values, *, kind: Kind) -> _Values:
    """Return the weights of squared residuals in units of the squared scale, such as sums over components."""
    if kind == "cauchy":
        return 1.0 / (1.0 + squares)
    return 1.0 / (1.0 + squares) ** 2
