"""One case of the benchmark: a stack, spoilt in one way, aligned by one method, measured."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.digest import digest_of_sources
from benchmarks.accuracy.methods import Method, NotInstalledError, SectionFields
from benchmarks.spoilt.aligners import METHODS, align_images
from benchmarks.spoilt.kinds import KINDS, SpoiltStack, spoil_sections, spoil_stack
from benchmarks.spoilt.measure import measure, truth_maps
from benchmarks.spoilt.names import names_of
from benchmarks.spoilt.stacks import DeformedStack, deform_stack, load_stack

UNDAMAGED = "undamaged"
MIXED = "mixed "
_DECIDING = (
    "composition",
    "config",
    "diagnosis",
    "driver",
    "field",
    "geometry",
    "image",
    "registration",
    "stages",
    "storage",
)
"""Folders of the package that decide the fields and the names."""


@dataclass(frozen=True)
class Case:
    """One stack, spoilt in one way, for one method."""

    data: str
    seed: int
    kind: str
    """One of `KINDS`, `undamaged`, or `mixed` and a share of the sections."""
    method: str
    sections: int
    size: int
    corner: tuple[int, int] | None
    at: int
    folder: Path
    work: Path
    keep: bool
    """Whether the run and the maps of the error are kept in `work`."""

    @property
    def name(self) -> str:
        """Unique name among the cases of one call."""
        return f"{self.data}-{self.seed}-{self.kind.replace(' ', '-')}-{self.method}"

    def stack(self) -> DeformedStack:
        """Make the observed sections."""
        made = load_stack(self.data, sections=self.sections, size=self.size, data=self.folder, corner=self.corner)
        return deform_stack(made, seed=self.seed)

    def spoil(self, stack: DeformedStack) -> SpoiltStack:
        """Spoil them."""
        if self.kind == UNDAMAGED:
            return SpoiltStack(stack.images, {}, {})
        if not self.kind.startswith(MIXED):
            return spoil_stack(stack.images, self.kind, at=self.at, seed=self.seed, foreign=stack.foreign)
        rng, count = np.random.default_rng([self.seed, 7]), len(stack.images)
        many = round(float(self.kind.removeprefix(MIXED)) * count)
        single = [kind for kind in KINDS if kind not in ("swapped", "three_bad")]
        places = rng.choice(np.arange(1, count - 1), size=many, replace=False)
        wanted = {int(z): str(single[i]) for z, i in zip(places, rng.permutation(many) % len(single), strict=True)}
        return spoil_sections(stack.images, wanted, seed=self.seed, foreign=stack.foreign)


def run_case(case: Case, *, methods: Mapping[str, Method] = METHODS) -> dict[str, Any]:
    """Align and measure a case by one of the methods; what goes wrong in it is its state."""
    torch.set_num_threads(1)
    record: dict[str, Any] = {"data": case.data, "seed": case.seed, "kind": case.kind, "method": case.method}
    try:
        stack = case.stack()
        reference = _undamaged(case, stack, method=methods[case.method])
        if case.kind == UNDAMAGED:
            notes = list(reference.notes)
            return record | {"state": "done", "spoilt": {}, "named": names_of(notes), "notes": notes}
        spoilt = case.spoil(stack)
        begun = time.process_time()
        found = align_images(
            methods[case.method],
            spoilt.images,
            pixel_size=stack.pixel_size,
            section_thickness=stack.section_thickness,
            keep=case.work / case.name if case.keep else None,
        )
        seconds = time.process_time() - begun
        sound = truth_maps(reference, stack, {})
        made = measure(truth_maps(found, stack, spoilt.sources), sound, spoilt)
    except NotInstalledError as error:
        return record | {"state": "not installed", "cause": str(error)}
    except Exception as error:  # noqa: BLE001  whatever it raises, the table says so
        return record | {"state": "failed", "cause": f"{type(error).__name__}: {error}"}
    if case.keep:
        np.savez(case.work / case.name / "error.npz", np.stack([made.maps[z] for z in sorted(made.maps)]))
    return record | {
        "state": "done",
        "seconds": seconds,
        "spoilt": {str(z): kind for z, kind in spoilt.spoilt.items()},
        "harm": {str(z): value for z, value in made.harm.items()},
        "harm_median": made.harm_median,
        "harm_largest": made.harm_largest,
        "back": {str(z): list(value) for z, value in made.back.items()},
        "named": names_of(found.notes),
        "notes": list(found.notes),
    }


def _undamaged(case: Case, stack: DeformedStack, *, method: Method) -> SectionFields:
    """Return the fields of the undamaged stack, from the cache if the same code has found them."""
    settings = [method.settings(), case.sections, case.size, case.corner]
    of_code = digest_of_sources(*_DECIDING) if case.method == "default" else ""
    of_pixels = hashlib.sha256(stack.images.tobytes()).hexdigest()
    digest = hashlib.sha256(json.dumps([of_code, of_pixels, settings]).encode()).hexdigest()[:16]
    path = case.work / "undamaged" / f"{case.data}-{case.seed}-{case.method}-{digest}.npz"
    if path.exists():
        return SectionFields.load(path)
    found = align_images(method, stack.images, pixel_size=stack.pixel_size, section_thickness=stack.section_thickness)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    found.save(part)
    part.replace(path)
    return found
