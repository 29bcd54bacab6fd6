"""Shared type aliases, and the base of every configuration record."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict

ShapeYX: TypeAlias = tuple[int, int]
ShapeZYX: TypeAlias = tuple[int, int, int]
PointYX: TypeAlias = tuple[float, float]
if TYPE_CHECKING:
    from numpy.typing import NDArray

    AnyArray: TypeAlias = NDArray[Any]
    BoolArray: TypeAlias = NDArray[np.bool_]
    IndexArray: TypeAlias = NDArray[np.intp]
    Float32Array: TypeAlias = NDArray[np.float32]
    Float64Array: TypeAlias = NDArray[np.float64]
else:
    # numpy 2.5 made NDArray an alias that is no class, which jaxtyping's shapes cannot be made of.
    AnyArray = BoolArray = IndexArray = Float32Array = Float64Array = np.ndarray


class ConfigBase(BaseModel):
    """Base of all configuration records: frozen, and an unknown key is an error instead of being ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
