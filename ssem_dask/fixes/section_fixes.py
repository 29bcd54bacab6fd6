"""All that is fixed of each section, each pair and each jump of a volume, in source px at mip 0.

This is the form in which tasks use fixes: it does not depend on the order of the tables or on the unit of the file, and
its digests are those of its meaning.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ssem_dask.field.affine import compose_affine, rotation_about
from ssem_dask.fixes.fix_records import Fill, Fixes, Line, SectionFix
from ssem_dask.types import Float64Array, ShapeYX

AffineRows = tuple[tuple[float, float, float], tuple[float, float, float]]
PointPair = tuple[float, float, float, float, float]
"""(y, x) in the fixed and in the moving section, and the standard deviation, px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFixes:
    """All that is fixed of one section."""

    fill: Fill | None = None
    """Content in its place if it is excluded; None: it is not."""
    angle: float | None = None
    """Degrees by which it must be turned, None: by none in particular."""
    mirror: bool = False
    inverted: bool = False
    affine: AffineRows | None = None
    """Map aligned → source."""
    other: int | None = None
    """Section that it has changed places with."""
    masks: tuple[Line, ...] = ()
    """Polygons without tissue."""
    mask_files: tuple[str, ...] = ()
    splits: tuple[Line, ...] = ()

    @property
    def excluded(self) -> bool:
        """Whether the section takes no part."""
        return self.fill is not None

    @property
    def turned(self) -> bool:
        """Whether the section was mounted turned or mirrored."""
        return self.mirror or self.angle is not None

    @property
    def is_placed(self) -> bool:
        """Whether the fixes say where the section is."""
        return self.turned or self.affine is not None


NOTHING = SectionFixes()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFixes:
    """All fixes of a volume."""

    sections: Mapping[int, SectionFixes] = field(default_factory=dict)
    """By section; those that are left out have no fix."""
    pairs: Mapping[tuple[int, int], tuple[PointPair, ...]] = field(default_factory=dict)
    """Points by (fixed, moving) section."""
    kept_jumps: tuple[int, ...] = ()
    undone_jumps: tuple[int, ...] = ()
    file_digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each mask file, by its path."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is fixed."""
        return not (self.sections or self.pairs or self.kept_jumps or self.undone_jumps)

    def of(self, z: int) -> SectionFixes:
        """Return what holds for a section."""
        return self.sections.get(z, NOTHING)

    def excluded(self, sections: Iterable[int]) -> list[int]:
        """Return those of some sections that take no part."""
        return [z for z in sections if self.of(z).excluded]

    def points_of(self, z: int) -> dict[int, tuple[PointPair, ...]]:
        """Return the points of a section with others, by the other section, with z first: (yz, xz, yo, xo, sd)."""
        found: dict[int, tuple[PointPair, ...]] = {}
        for (fixed, moving), points in self.pairs.items():
            if z == fixed:
                found[moving] = found.get(moving, ()) + points
            elif z == moving:
                found[fixed] = found.get(fixed, ()) + tuple((c, d, a, b, sd) for a, b, c, d, sd in points)
        return found

    def points_between(self, fixed: int, moving: int) -> tuple[PointPair, ...]:
        """Return the points of two sections, those of `fixed` first, whichever the file calls fixed."""
        return self.points_of(fixed).get(moving, ())

    def concerned(self) -> frozenset[int]:
        """Return the sections that any fix is about."""
        jumps = (*self.kept_jumps, *self.undone_jumps)
        return frozenset({*self.sections, *(z for pair in self.pairs for z in pair), *jumps})

    def within(self, sections: range) -> "VolumeFixes":
        """Return the fixes that concern any of some sections; a pair does so if it has one of them."""
        if self.is_empty:
            return self  # the usual case, and asked for every task
        return VolumeFixes(
            sections={z: fix for z, fix in self.sections.items() if z in sections},
            pairs={pair: points for pair, points in self.pairs.items() if pair[0] in sections or pair[1] in sections},
            kept_jumps=tuple(z for z in self.kept_jumps if z in sections),
            undone_jumps=tuple(z for z in self.undone_jumps if z in sections),
            file_digests=self.file_digests,
        )

    def placing(self) -> "VolumeFixes":
        """Return the part of the fixes that decides where sections, and the sides of lines in them, are as a whole."""
        if self.is_empty:
            return self  # the usual case, and asked for every task
        kept = {z: replace(fix, fill=fix.fill and "blank", masks=(), mask_files=()) for z, fix in self.sections.items()}
        return VolumeFixes(sections=_without_empty(kept), pairs=self.pairs)

    def matching(self) -> "VolumeFixes":
        """Return the part of the fixes that decides how the images of sections are matched."""
        if self.is_empty:
            return self  # the usual case, and asked for every task
        kept = {
            z: replace(fix, fill=fix.fill and "blank", angle=None, mirror=False, affine=None)
            for z, fix in self.sections.items()
        }
        return VolumeFixes(sections=_without_empty(kept), pairs=self.pairs, file_digests=self.file_digests)

    def showing(self) -> "VolumeFixes":
        """Return the part of the fixes that decides which section is shown in the place of another."""
        if self.is_empty:
            return self  # the usual case, and asked for every task
        kept = {z: SectionFixes(fill=fix.fill, other=fix.other) for z, fix in self.sections.items()}
        return VolumeFixes(sections=_without_empty(kept))

    def exchanging(self) -> "VolumeFixes":
        """Return the part of the fixes that decides which section of the source is read in the place of another."""
        if self.is_empty:
            return self  # the usual case, and asked for every task
        return VolumeFixes(
            sections=_without_empty({z: SectionFixes(other=fix.other) for z, fix in self.sections.items()})
        )

    def jumps(self) -> "VolumeFixes":
        """Return the part of the fixes that is about jumps."""
        return VolumeFixes(kept_jumps=self.kept_jumps, undone_jumps=self.undone_jumps)

    def joined(self, other: "VolumeFixes") -> "VolumeFixes":
        """Return these fixes with those that are only in the other ones."""
        return VolumeFixes(
            sections={**other.sections, **self.sections},
            pairs={**other.pairs, **self.pairs},
            kept_jumps=self.kept_jumps or other.kept_jumps,
            undone_jumps=self.undone_jumps or other.undone_jumps,
            file_digests={**other.file_digests, **self.file_digests},
        )

    def digest(self) -> str:
        """Return a digest of what the fixes mean; empty if nothing is fixed."""
        if self.is_empty:
            return ""
        content = json.dumps(self._meaning(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def differing(self, other: "VolumeFixes") -> frozenset[int]:
        """Return the sections of which the fixes say something else than `other` does."""
        mine, theirs = ({z: each.within(range(z, z + 1)).digest() for z in each.concerned()} for each in (self, other))
        return frozenset(z for z in mine.keys() | theirs.keys() if mine.get(z) != theirs.get(z))

    def _meaning(self) -> dict[str, Any]:
        files = {f for fix in self.sections.values() for f in fix.mask_files}
        return {
            "sections": {str(z): asdict(fix) for z, fix in self.sections.items()},
            "pairs": {f"{fixed}-{moving}": sorted(points) for (fixed, moving), points in self.pairs.items()},
            "kept": sorted(self.kept_jumps),
            "undone": sorted(self.undone_jumps),
            "files": {name: digest for name, digest in self.file_digests.items() if name in files},
        }


def _without_empty(sections: Mapping[int, SectionFixes]) -> dict[int, SectionFixes]:
    return {z: fix for z, fix in sections.items() if fix != NOTHING}


NO_FIXES = VolumeFixes()


def section_fixes(fixes: Fixes, *, pixel_size: float, file_digest: Callable[[str], str]) -> VolumeFixes:
    """Join the tables of a file by section, in px.

    Args:
        fixes: content of the file, without contradictions (`fix_checks.check_fixes`).
        pixel_size: nm per px.
        file_digest: SHA-256 of a mask file by its path.
    """
    fixes = fixes.in_px(pixel_size)
    sections: dict[int, SectionFixes] = {}
    for fix in fixes.section:
        for z in fix.range:
            sections[z] = _joined(sections.get(z, NOTHING), fix)
            if fix.other is not None:
                sections[fix.other] = replace(sections.get(fix.other, NOTHING), other=z)
    pairs: dict[tuple[int, int], tuple[PointPair, ...]] = {}
    for pair in fixes.pair:
        key = pair.fixed, pair.moving
        pairs[key] = pairs.get(key, ()) + tuple((*point, pair.sd) for point in pair.points)
    files = {name for fix in sections.values() for name in fix.mask_files}
    return VolumeFixes(
        sections=dict(sorted(sections.items())),
        pairs=dict(sorted(pairs.items())),
        kept_jumps=tuple(sorted({jump.z for jump in fixes.jump if jump.action == "keep"})),
        undone_jumps=tuple(sorted({jump.z for jump in fixes.jump if jump.action == "undo"})),
        file_digests={name: file_digest(name) for name in sorted(files)},
    )


def _joined(known: SectionFixes, fix: SectionFix) -> SectionFixes:
    changes: dict[str, Any] = {}
    if fix.action == "exclude":
        changes["fill"] = fix.fill or "blank"
    elif fix.action == "turn":
        changes |= {"angle": fix.angle or 0.0, "mirror": fix.mirror}
    elif fix.action == "invert":
        changes["inverted"] = True
    elif fix.action == "place":
        changes["affine"] = fix.affine
    elif fix.action == "swap":
        changes["other"] = fix.other
    if isinstance(fix.mask, str):
        changes["mask_files"] = (*known.mask_files, fix.mask)
    elif fix.mask is not None:
        changes["masks"] = (*known.masks, *fix.mask)
    if fix.split is not None:
        changes["splits"] = (*known.splits, *fix.split)
    return replace(known, **changes)


def placed_map(fix: SectionFixes, *, shape_yx: ShapeYX) -> Float64Array | None:
    """Return the map `(2, 3)` aligned → source that a section's fixes give, about its centre; None if they give none.

    Args:
        fix: what holds for the section.
        shape_yx: section, mip-0 px.
    """
    if fix.affine is not None:
        return np.array(fix.affine, dtype=np.float64)
    if not fix.turned:
        return None
    centre = shape_yx[0] / 2, shape_yx[1] / 2
    # Content that has to turn counter-clockwise is found by turning the place clockwise. A rotation of y towards x is
    # counter-clockwise on a screen, whose y axis points down.
    back = rotation_about(degrees=-(fix.angle or 0.0), centre=centre)
    if not fix.mirror:
        return back
    # Mirrored first, then turned: on the way back the mirror comes last.
    mirror = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, float(shape_yx[1])]])
    return compose_affine(outer=mirror, inner=back)
