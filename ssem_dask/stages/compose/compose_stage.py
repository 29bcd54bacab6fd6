"""Stage compose: from pair fields to one field per section, `fields/section`, by the method of the configuration."""

from collections.abc import Iterable, Iterator
from typing import Any

from ssem_dask.stages.compose.anchors import resolve_compose
from ssem_dask.stages.compose.chain_tasks import ChainMethod
from ssem_dask.stages.compose.layout import restriction_factor
from ssem_dask.stages.compose.method import STAGE, USES_GPU, ComposeMethod
from ssem_dask.stages.compose.relax_planes import PlanesMethod
from ssem_dask.stages.compose.relax_tiles import TilesMethod
from ssem_dask.stages.configs import ComposeStageConfig
from ssem_dask.stages.job import Job
from ssem_dask.stages.stage import Estimate, JobTask, Stage
from ssem_dask.storage.volume import VolumeInfo
from ssem_dask.types import ConfigBase

_TYPICAL_CHUNK_BYTES = 256 * 256 * 2 * 4
"""Bytes of a chunk of a field."""


def method_of(job: Job) -> ComposeMethod:
    """Return the method of the configuration. Method `relax` solves wide sections in tiles."""
    if job.compose.method == "chain":
        return ChainMethod()
    return TilesMethod() if restriction_factor(job) > 1 else PlanesMethod()


class ComposeStage(Stage):
    """From pair fields to one field per section."""

    name = STAGE
    upstream = ("coarse", "register")
    config_type = ComposeStageConfig
    layout_keys = (
        "method",
        "chain.block",
        "chain.stitch",
        "relax.window",
        "relax.neighbours",
        "relax.keep_natural",
    )
    uses_gpu = USES_GPU

    def resolve(self, config: ConfigBase, info: VolumeInfo) -> tuple[ConfigBase, list[str]]:
        """Check jumps, landmarks and far pairs, and pin the content of files; see `anchors.resolve_compose`."""
        assert isinstance(config, ComposeStageConfig)
        return resolve_compose(config, info), []

    def decisive(self, job: Job) -> dict[str, Any]:
        """Return the settings but those of the method that is not used."""
        unused = {"chain", "relax"} - {job.compose.method}
        return {key: value for key, value in job.compose.model_dump(mode="json").items() if key not in unused}

    def prepare(self, job: Job) -> None:
        """Create the arrays of the method."""
        method_of(job).prepare(job)

    def generations(self, job: Job) -> Iterator[Iterable[JobTask]]:
        """Yield the tasks of the method."""
        yield from method_of(job).generations(job)

    def estimate(self, job: Job) -> Estimate:
        """Return the cost of the method."""
        return method_of(job).estimate(job)

    def request_bytes(self, job: Job) -> int:
        """Return the bytes of a chunk of a field."""
        del job
        return _TYPICAL_CHUNK_BYTES
