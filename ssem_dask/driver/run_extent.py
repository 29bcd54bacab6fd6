"""The sections of a run: how many it has, and how many its statistics were fitted to."""

from dataclasses import dataclass

from ssem_dask.errors import OutputError, SourceError
from ssem_dask.stages.job import GROWN_AHEAD, GROWN_DEPTH, Growth
from ssem_dask.storage.run_group import RunRecord, read_writable_run


@dataclass(frozen=True, slots=True)
class RunExtent:
    """The sections of a run to which some were appended."""

    sections: int = 0
    """Number of sections; 0: all of the source."""
    fitted: int = 0
    """Sections that the statistics were fitted to; 0: all, and nothing was ever appended."""

    @property
    def growth(self) -> Growth | None:
        """Growth as the job has it."""
        return Growth(self.fitted) if self.fitted else None


def recorded_extent(output: str) -> RunExtent:
    """Return the extent of the run at an output; the default if there is none, or if nothing was appended to it."""
    try:
        return extent_of(read_writable_run(output))
    except (SourceError, OutputError):
        return RunExtent()  # whoever writes into it says what is wrong with it


def extent_of(record: RunRecord) -> RunExtent:
    """Return the extent that a record states."""
    return RunExtent(record.sections, record.fitted_sections) if record.fitted_sections else RunExtent()


def locked_sections(sections: int) -> int:
    """Return how many of the sections of a finished run later ones cannot change."""
    return max(0, sections - GROWN_AHEAD) // GROWN_DEPTH * GROWN_DEPTH
