"""Glossary of the kinds of sections that need a look: meaning, evidence, what the run does, what a person can do.

The report shows the entries of the kinds that it names, docs/failures.md shows all.
"""

from dataclasses import dataclass

from ssem_dask.section_record import Kind

RUN = "OUT.zarr"
"""Name of the run in the commands."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind."""

    meaning: str
    evidence: str
    done: str
    """Reaction of the run."""
    advice: str
    """Thing that a person can check or do."""
    command: str = ""
    """Command that does it, for the run `RUN`; empty: there is none."""

    @property
    def setting(self) -> str:
        """Setting that the command changes, as `table.key=value`; empty: it changes none."""
        return self.command.partition(" --set ")[2]


_LIKENESS = "similarity to up to three sections on either side, confidence of their pair fields"
_LEFT_OUT = "left out: it changes no other section, and has no place of its own"
_PUT_RIGHT = "put right: the whole section was moved back before it was registered"
_ALIGNED = "aligned like the others; what resembles no neighbour counts little"
_PARTS = "its parts are placed one by one, where both neighbours show how they moved; else aligned like the others"
_LOOK = f"ssem-dask fix {RUN}"
_SHOW_NEAREST = f"ssem-dask rerun {RUN} --set render.unplaced=nearest"
_DETECT = f"ssem-dask rerun {RUN} --set mask.detect=true"

GLOSSARY: dict[Kind, Entry] = {
    Kind.BLANK: Entry(
        "it shows no tissue",
        "share of tissue",
        _LEFT_OUT,
        "check whether its file is the right one; show its nearest neighbour in its place",
        _SHOW_NEAREST,
    ),
    Kind.NOISE: Entry(
        "it shows noise without structure",
        "correlation of adjacent pixels",
        _LEFT_OUT,
        "check its file; show its nearest neighbour in its place",
        _SHOW_NEAREST,
    ),
    Kind.FOREIGN: Entry(
        "it shows tissue, but resembles none of its neighbours in any position",
        _LIKENESS,
        _LEFT_OUT,
        "check whether it is a section of another place or series; show its nearest neighbour in its place",
        _SHOW_NEAREST,
    ),
    Kind.UNPLACED: Entry(
        "it resembles its neighbours, but no pair field could be found",
        _LIKENESS,
        _LEFT_OUT,
        "say where it belongs, by points or by hand",
        _LOOK,
    ),
    Kind.TURNED: Entry(
        "it was rotated far more than the others",
        "coarse affine",
        _PUT_RIGHT,
        "compare it with its neighbours; if it is wrong, give its rotation",
        _LOOK,
    ),
    Kind.MIRRORED: Entry(
        "it was mounted or imaged upside down",
        "coarse affine",
        _PUT_RIGHT,
        "compare it with its neighbours; if it is wrong, say so",
        _LOOK,
    ),
    Kind.INVERTED: Entry(
        "its contrast is inverted: dark is light",
        "negative similarity",
        "aligned after inverting it; its grey values are written as they came",
        "invert it in the source, if it must look like the others",
    ),
    Kind.SCALED: Entry(
        "it was imaged at another scale",
        "coarse affine",
        _PUT_RIGHT,
        "check the magnification that its file states",
        _LOOK,
    ),
    Kind.SHIFTED: Entry(
        "it was displaced far more than the others, and a part of it is missing",
        "coarse affine",
        _PUT_RIGHT,
        "check whether a larger image of it exists",
        _LOOK,
    ),
    Kind.DUPLICATE: Entry(
        "it repeats the image of a section before it",
        "similarity of thumbnails",
        "not registered; it is placed as the sections beside it are",
        "remove its file and import again; if one is missing instead, find it",
    ),
    Kind.OUT_OF_ORDER: Entry(
        "it would fit better elsewhere in the stack",
        "similarity of thumbnails",
        "aligned where it is; sections are never reordered",
        "check the names of the files, put them in order and import again",
    ),
    Kind.FOLD: Entry(
        "a dark band runs through it, mostly doubled tissue",
        "bands in which it differs from both neighbours",
        _PARTS,
        "mask folds, so that nothing is smoothed across them",
        _DETECT,
    ),
    Kind.CRACK: Entry(
        "a bright band runs through it, mostly a gap",
        "bands in which it differs from both neighbours",
        _PARTS,
        "mask cracks, so that nothing is smoothed across them",
        _DETECT,
    ),
    Kind.SEAM: Entry(
        "one side was displaced against the other, without a gap",
        "steps of its field",
        _PARTS,
        "check how its tiles were stitched",
        _LOOK,
    ),
    Kind.TORN: Entry(
        "a part of it resembles none of its neighbours",
        "similarity of blocks",
        _ALIGNED,
        "look at it; mask the part, if it is damaged",
        _DETECT,
    ),
    Kind.PARTLY_EMPTY: Entry(
        "a part of it shows no tissue",
        "regions in which it differs from its neighbours",
        "aligned by the part that is there; the rest is interpolated",
        "check whether the whole section was imaged",
    ),
    Kind.DIRT: Entry(
        "dark or bright spots cover a part of it",
        "regions in which it differs from its neighbours",
        _ALIGNED,
        "nothing, unless tissue around the spots is displaced; then mask them",
        _DETECT,
    ),
    Kind.BLURRED: Entry(
        "it has less fine detail than the others",
        "spectrum of its image",
        "aligned like the others; its field is less certain",
        "image it again, if the section still exists",
    ),
    Kind.FAINT: Entry(
        "its contrast is far lower than that of the others",
        "spread of its grey values",
        "aligned like the others; its grey values are written as they came, unless contrast is matched",
        "match the contrast of the sections",
        f"ssem-dask rerun {RUN} --set render.contrast=match",
    ),
}


def glossary_markdown() -> str:
    """Return a Markdown table with one row per kind."""
    rows = [
        f"| `{kind}` | {entry.meaning} | {entry.evidence} | {entry.done} | {entry.advice}"
        f"{f': `{entry.command}`' if entry.command else ''} |\n"
        for kind, entry in GLOSSARY.items()
    ]
    head = "| kind | meaning | evidence | what the run does | what you can do |\n|---|---|---|---|---|\n"
    return head + "".join(rows)
