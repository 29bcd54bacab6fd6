"""Who takes part, on which sections, and their records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.own import Identity, Mode
from benchmarks.accuracy.peers.elastix import ElastixBspline
from benchmarks.accuracy.peers.feabas_mesh import Feabas
from benchmarks.accuracy.peers.optical_flow import SmoothedFlow
from benchmarks.accuracy.peers.sift import SiftSimilarity
from benchmarks.accuracy.peers.stackreg import StackRegAffine
from benchmarks.accuracy.runner import cells_of, in_own_process, in_this_process, run_missing
from benchmarks.accuracy.scenes import FIBSEM, PHANTOM, VNC, VNC_SMALL, Crop, scenes_of
from benchmarks.challenge.file_method import AdapterError, FileMethod
from benchmarks.challenge.page import Entry
from benchmarks.spoilt.cases import Case, run_case

ADAPTERS = Path(__file__).parent / "adapters"
_NO_METHODS = {"__init__.py", "template.py"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sections of a challenge."""

    description: str
    crops: tuple[Crop, ...]
    seeds: int
    """Deformations of each crop."""
    spoilt_data: tuple[str, ...]
    """Stacks of which a section is spoilt."""
    spoilt_sections: int
    spoilt_side: int
    """px"""
    kinds: tuple[str, ...]
    """Ways to spoil it."""
    own_process: bool = True
    """Whether each cell is a process of its own."""


SIZES: Final = {
    "full": Size(
        description="FIB-SEM of a fly brain, 16 × 448², and serial sections of a fly's nerve cord, 20 × 640²; 3 random "
        "deformations of each; one of 12 sections of 512² spoilt in 6 ways",
        crops=(FIBSEM, VNC),
        seeds=3,
        spoilt_data=("vnc", "fibsem1"),
        spoilt_sections=12,
        spoilt_side=512,
        kinds=("fold_large", "foreign", "turn180", "black", "half_missing", "shift30"),
    ),
    "small": Size(
        description="Serial sections of a fly's nerve cord, 10 × 448²; one random deformation; one of 10 sections of "
        "320² spoilt in 3 ways",
        crops=(VNC_SMALL,),
        seeds=1,
        spoilt_data=("vnc",),
        spoilt_sections=10,
        spoilt_side=320,
        kinds=("fold_large", "foreign", "turn180"),
    ),
    "tiny": Size(
        description="Synthetic sections, 4 × 192²; one random deformation; one of 5 sections of 128² black",
        crops=(PHANTOM,),
        seeds=1,
        spoilt_data=("phantom",),
        spoilt_sections=5,
        spoilt_side=128,
        kinds=("black", "faint"),
        own_process=False,
    ),
}
"""Sections by the name of the size."""


def all_methods(adapters: Sequence[Path] = ()) -> list[Method]:
    """Return ours, the peers, the files of `adapters/`, and further files.

    Raises:
        AdapterError: a file is not there, or has the name of another method.
    """
    known: list[Method] = [
        Mode("default", "ssem_dask"),
        Mode("coarse", "ssem_dask, coarse stage only", coarse_only=True),
        Identity(),
        StackRegAffine(),
        SiftSimilarity(),
        SmoothedFlow(),
        ElastixBspline(),
        Feabas(),
    ]
    files = [*sorted(path for path in ADAPTERS.glob("*.py") if path.name not in _NO_METHODS), *adapters]
    for path in files:
        if not path.is_file():
            raise AdapterError(f"{path}: is not there; copy benchmarks/challenge/adapters/template.py.")
        method = FileMethod(path.resolve())
        if method.name in {other.name for other in known}:
            raise AdapterError(f"{path}: there is a method {method.name} already; give the file another name.")
        known.append(method)
    return known


def run_methods(
    methods: Sequence[Method],
    size: Size,
    *,
    work: Path,
    data: Path,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Entry]:
    """Run what has not been run by the same code, and return all records, method by method."""
    scenes = [scene for crop in size.crops for scene in scenes_of(crop, seeds=size.seeds, damaged=0.0)]
    execute = in_own_process if size.own_process else in_this_process
    entries = []
    for method in methods:
        records = run_missing(
            cells_of([method], scenes, work=work, data=data), jobs=jobs, execute=execute, progress=progress
        )
        absent = all(record["state"] == "not installed" for record in records)
        spoilt = [] if absent else [_spoilt(case, method, progress) for case in _cases(method, size, work, data)]
        entries.append(Entry(method.name, method.title, [*records, *spoilt], isinstance(method, Identity)))
    return entries


def _cases(method: Method, size: Size, work: Path, data: Path) -> list[Case]:
    return [
        Case(
            data=stack,
            seed=1,
            kind=kind,
            method=method.name,
            sections=size.spoilt_sections,
            size=size.spoilt_side,
            corner=None,
            at=size.spoilt_sections // 2,
            folder=data,
            work=work,
            keep=False,
        )
        for stack in size.spoilt_data
        for kind in size.kinds
    ]


def _spoilt(case: Case, method: Method, progress: Callable[[str], None]) -> dict[str, Any]:
    record = run_case(case, methods={method.name: method})
    harm = f", harm {record['harm_largest']:.2f} px at most" if "harm_largest" in record else ""
    progress(f"{method.name} on {case.data} with a section {case.kind}: {record['state']}{harm}")
    return record
