"""Shared type aliases, and the base of every configuration record."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

ShapeYX: TypeAlias = tuple[int, int]
ShapeZYX: TypeAlias = tuple[int, int, int]
PointYX: TypeAlias = tuple[float, float]
AnyArray: TypeAlias = NDArray[Any]
BoolArray: TypeAlias = NDArray[np.bool_]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]


class ConfigBase(BaseModel):
    """Base of all configuration records: frozen, and an unknown key is an error instead of being ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
