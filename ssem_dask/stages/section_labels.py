"""Sections in remarks of tasks, by number and by the name of the file that they were imported from."""

from collections.abc import Sequence
from typing import Protocol

from ssem_dask.storage.run_group import run_section_names
from ssem_dask.storage.section_names import section_list

_SHOWN = 10


class _Run(Protocol):
    @property
    def output(self) -> str: ...


def listed_sections(job: _Run, sections: Sequence[int], *, limit: int = _SHOWN) -> str:
    """Return sections as text: 3 (S004.tif), 4 (S005.tif).

    A job has no names, since it travels with every task. They are read from the run, only if there is a remark.
    """
    return section_list(sections, run_section_names(job.output), limit=limit)
