"""Who aligns the spoilt stacks: our default mode and the peers of the accuracy benchmark."""

import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.methods import Method, SectionFields
from benchmarks.accuracy.own import Identity
from benchmarks.accuracy.peers.feabas_mesh import Feabas
from benchmarks.accuracy.peers.optical_flow import SmoothedFlow
from benchmarks.accuracy.peers.sift import SiftSimilarity
from benchmarks.accuracy.scenes import Crop, PreparedScene, Scene
from ssem_dask.config.schema import make_config
from ssem_dask.driver.pipeline import open_run, plan
from ssem_dask.geometry.box import Box
from ssem_dask.stages.array_rows.compose_arrays import SECTION
from ssem_dask.stages.pipeline_order import STAGES
from ssem_dask.storage.attention import read_attention
from ssem_dask.storage.volume import VolumeInfo, create_volume
from ssem_dask.task import Outcome
from ssem_dask.types import AnyArray

NAMED = "named: "
"""Beginning of the note with the names of sections, as JSON: z → kind."""


@dataclass(frozen=True)
class FieldsOnly:
    """Our stages, one task after the other in this process."""

    name: str = "default"
    title: str = "ssem_dask"
    config: dict[str, Any] = field(default_factory=dict)

    def versions(self) -> dict[str, str]:
        """None."""
        return {}

    def settings(self) -> dict[str, Any]:
        """The configuration."""
        return self.config

    def align(self, scene: PreparedScene, *, folder: Path) -> SectionFields:
        """Run the stages and read the fields; the remarks of the tasks and the names of sections are notes."""
        planned = plan(make_config({"source": scene.url, "output": str(folder / "run.zarr"), **self.config}, where=""))
        open_run(planned)
        notes = []
        for stage in STAGES:
            if stage.name not in planned.estimates:
                continue
            stage.prepare(planned.job)
            for tasks in stage.generations(planned.job):
                for task in tasks:
                    result = task.run()
                    if result.message and result.outcome is not Outcome.OK:
                        notes.append(f"{task.key}: {result.message}")
        attention = read_attention(planned.job.output)
        named = {} if attention is None else {record.z: str(record.kind) for record in attention.records}
        notes.append(NAMED + json.dumps(named))
        values = np.asarray(SECTION.read(planned.job), dtype=np.float32)
        return SectionFields(values, planned.job.spacing, notes=tuple(notes))


METHODS: dict[str, Method] = {
    method.name: method for method in (FieldsOnly(), Identity(), SiftSimilarity(), SmoothedFlow(), Feabas())
}


def align_images(
    method: Method, images: AnyArray, *, pixel_size: float, section_thickness: float, keep: Path | None = None
) -> SectionFields:
    """Align sections (z, y, x) in a folder that is removed afterwards, or in `keep`.

    Raises:
        NotInstalledError: the method's packages are missing.
    """
    method.versions()
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="spoilt-")) if keep is None else keep
    folder.mkdir(parents=True, exist_ok=True)
    try:
        url = str(folder / "source.zarr")
        info = VolumeInfo(
            shape=(images.shape[0], images.shape[1], images.shape[2]),
            dtype=np.dtype("uint8"),
            pixel_size=pixel_size,
            section_thickness=section_thickness,
        )
        side = -(-max(images.shape[1:]) // 64) * 64
        volume = create_volume(url, info=info, chunk=(1, side, side), shard=(1, side, side), mips=1)
        for z, image in enumerate(images):
            volume.write(Box((z, 0, 0), (z + 1, *image.shape)), image[None])
        crop = Crop("spoilt", lambda _: images, pixel_size=pixel_size, section_thickness=section_thickness)
        (folder / "work").mkdir()
        return method.align(PreparedScene(Scene(crop), url, url, ""), folder=folder / "work")
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
