"""Shared type aliases, and the base of every configuration record."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

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


@dataclass(frozen=True, slots=True)
class PlaceMark:
    """Mark of a setting that names a place: a path or a URL. `config.setting_places` makes relative paths absolute."""

    suffix: str = ""
    """End of the values that are paths; others are names, such as that of a built-in encoder. Empty: all are paths."""


Place: TypeAlias = Annotated[str, PlaceMark()]
"""Path or URL in a configuration."""
WeightsPlace: TypeAlias = Annotated[str, PlaceMark(suffix=".safetensors")]
"""Name of an encoder, or the path of its weights."""


class ConfigBase(BaseModel):
    """Base of all configuration records: frozen, and an unknown key is an error instead of being ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
