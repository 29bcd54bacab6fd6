"""What a report is made from: the run's attributes, its ledger and its quality tables. Reads no image and no field."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssem_dask.geometry.box import Box
from ssem_dask.report.ledger_summary import Ended, gather
from ssem_dask.stages import register
from ssem_dask.stages.coarse import BRIDGED, MISPLACED, TWICE
from ssem_dask.storage import quality
from ssem_dask.storage.arrays import is_node, open_array
from ssem_dask.storage.fields import open_coarse
from ssem_dask.storage.ledger import open_ledger
from ssem_dask.storage.location import join
from ssem_dask.storage.quality import WINDOW_COLUMNS, QualityInfo
from ssem_dask.storage.run_group import read_run
from ssem_dask.storage.volume import Volume
from ssem_dask.task import TaskReport, box_key
from ssem_dask.types import AnyArray, Float32Array, ShapeYX, ShapeZYX
from ssem_dask.units import plural, shortened

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that a report shows, but for pictures of places."""

    url: str
    attributes: dict[str, Any]
    shape: ShapeZYX
    """(z, y, x) of the volume, mip 0."""
    pixel_size: float
    """nm per mip-0 px."""
    thickness: float
    """nm per section."""
    window: ShapeYX
    """Extent (y, x) of a register window's core, mip-0 px."""
    ended: Ended
    measured: bool
    """Whether there are quality tables."""
    info: QualityInfo | None
    sections: dict[str, Float32Array]
    """Columns `(z,)` of `quality/sections`; all unknown where nothing was measured."""
    windows: dict[str, Float32Array]
    """Columns `(z, y, x)` of `quality/windows`."""
    cuts: dict[tuple[str, str], AnyArray]
    """Reslices `(z, pixel)` by cut and time."""
    state: NDArray[np.uint8]
    """`fields/coarse_state` `(z,)`."""
    evaluation: dict[str, Any] | None
    """The last evaluation, if any."""
    records: dict[str, dict[str, Any]]
    """JSON records of the stages calibrate and compose."""

    @property
    def has_truth(self) -> bool:
        """Whether errors against a known truth are there."""
        return self.evaluation is not None and bool(self.evaluation.get("truth"))

    @property
    def curves(self) -> dict[str, Any]:
        """Errors of the sections against the truth, by candidate; empty without a truth."""
        return {} if self.evaluation is None else dict(self.evaluation.get("curves") or {})

    def register_report(self, *, z: int, row: int, column: int) -> TaskReport | None:
        """Return the ledger's report of the task that registered a window of section z; None if there is none."""
        depth = int(self.attributes["config"]["register"]["sections"])
        start = z - z % depth, row * self.window[0], column * self.window[1]
        return open_ledger(self.url).read(box_key(register.NAME, start))

    def remarks_on_sections(self) -> list[str]:
        """What the coarse stage found out about single sections."""
        what = {
            BRIDGED: "without a matching neighbour, or not connected to the other sections",
            MISPLACED: "apparently out of order (nothing was reordered)",
            TWICE: "with the same image as an earlier section",
        }
        lines = []
        for code, meaning in what.items():
            found = np.flatnonzero(self.state == code)
            if found.size:
                shown = shortened(found, limit=_SHOWN)
                lines.append(f"{plural(found.size, 'section')} {meaning}: {shown}")
        return lines


def collect(url: str) -> Material:
    """Read what a report needs; a run that has only begun has less, and that is no error.

    Raises:
        SourceError: there is no run, or its source has to be asked for its size and is gone.
        OutputError: something else is there.
    """
    attributes = read_run(url)
    config = attributes["config"]
    shape = _shape(url, attributes)
    register = config["register"]
    measured = quality.has_quality(url)
    info = quality.read_info(url) if measured else None
    window = info.window if info is not None else _window(register, shape)
    counts = -(-shape[1] // window[0]), -(-shape[2] // window[1])
    ended = gather(
        open_ledger(url).reports(None),
        sections=shape[0],
        windows=counts,
        window=window,
        depth=min(int(register["sections"]), shape[0]),
    )
    material = Material(
        url=url,
        attributes=attributes,
        shape=shape,
        pixel_size=float(config["volume"]["pixel_size"]),
        thickness=float(config["volume"]["section_thickness"]),
        window=window,
        ended=ended,
        measured=measured,
        info=info,
        sections={name: np.full(shape[0], np.nan, np.float32) for name in quality.SECTION_COLUMNS},
        windows={name: np.full((shape[0], *counts), np.nan, np.float32) for name in WINDOW_COLUMNS},
        cuts={},
        state=_state(url, shape[0]),
        evaluation=_evaluation(url, digest=attributes.get("config_digest")),
        records=_records(url),
    )
    if not measured:
        return material
    return replace(
        material,
        sections={**material.sections, **quality.read_sections(url)},
        windows={name: quality.read_window_column(url, name) for name in WINDOW_COLUMNS},
        cuts={
            (cut, time): quality.read_reslice(url, cut=cut, time=time) for cut in quality.CUTS for time in quality.TIMES
        },
    )


def _evaluation(url: str, *, digest: object) -> dict[str, Any] | None:
    """The kept evaluation, if it is of this configuration's result."""
    found = quality.read_evaluation(url)
    return found if found is not None and found.get("config_digest") == digest else None


def _shape(url: str, attributes: dict[str, Any]) -> ShapeZYX:
    coarse = join(url, "fields", "coarse")
    if is_node(coarse):
        stored: Any = open_coarse(coarse).attrs["shape_mip0"]
        z, y, x = stored
        return int(z), int(y), int(x)
    return Volume.open(attributes["source"], **attributes["config"]["volume"]).info.shape


def _window(register: dict[str, Any], shape: ShapeZYX) -> ShapeYX:
    spacing = int(register["spacing"])
    y, x = (min(int(register["window"]), -(-n // spacing) * spacing) for n in shape[1:])
    return y, x


def _state(url: str, sections: int) -> NDArray[np.uint8]:
    where = join(url, "fields", "coarse_state")
    if not is_node(where):
        return np.zeros(sections, dtype=np.uint8)
    return np.asarray(open_array(where, mode="r")[:], dtype=np.uint8)


def _records(url: str) -> dict[str, dict[str, Any]]:
    names = {"calibrate": "calibration.json", "compose": "relax.json"}
    found = {stage: quality.read_record(url, name) for stage, name in names.items()}
    return {stage: record for stage, record in found.items() if record is not None}


def window_box(material: Material, *, z: int, row: int, column: int) -> Box:
    """Core of a window in section z, mip-0 px."""
    y, x = row * material.window[0], column * material.window[1]
    return Box((z, y, x), (z + 1, y + material.window[0], x + material.window[1])).clipped(material.shape)
