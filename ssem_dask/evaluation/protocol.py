"""The evaluation protocol: all metrics of a run, for the candidates `observed`, `coarse` and `aligned`.

Which metrics can be computed depends on what is known beside the run:

- nothing: similarity of adjacent sections, held-out consistency, folds, strain, displacement.
- the truth of a simulated volume: also jitter and drift; damaged pixels are excluded everywhere.
- labels of the source (those of a simulated volume are used by default): overlap in adjacent sections, and with a truth
  also relative to that of the undeformed sections.
- a second run on the undeformed sections: the null test, and with a truth also recovery.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssem_dask.errors import SourceError
from ssem_dask.evaluation.appearance import PixelSource, View, measure_appearance
from ssem_dask.evaluation.candidates import Candidate, EvaluatedRun, foreign_candidate, zero_displacements
from ssem_dask.evaluation.error_curves import ErrorCurveMeter
from ssem_dask.evaluation.geometric import (
    measure_alignment,
    measure_held_out,
    measure_null_test,
    measure_recovery,
    measure_tissue_change,
)
from ssem_dask.evaluation.metric_table import measured_metrics
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.truth import TRUTH_KEY, Truth
from ssem_dask.evaluation.undeformed import PhantomSections
from ssem_dask.evaluation.verdict import make_verdict, metrics_in_doubt
from ssem_dask.storage.arrays import group_attributes
from ssem_dask.storage.evaluation_file import ErrorCurve, Evaluation, EvaluationRow
from ssem_dask.storage.foreign_fields.section_maps import open_section_maps
from ssem_dask.storage.volume import Volume

_OVERLAPS = ("dice_mean", "dice_weighted", "iou_mean", "iou_weighted")
_UNDEFORMED = "undeformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """The run to measure, and everything that is known beside it."""

    run: EvaluatedRun
    truth: Truth | None
    reference: EvaluatedRun | None
    """An alignment of the undeformed sections."""
    labels: str | None
    """URL of labels in the frame of the run's source."""
    sections: list[int]
    """z of the sections that are compared."""
    foreign: tuple[Candidate, ...]
    """Alignments of the same source by other fields."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All alignments that are compared."""
        return (*self.run.candidates(), *self.foreign)

    @classmethod
    def open(
        cls,
        run_url: str,
        *,
        truth: str | None,
        labels: str | None,
        undeformed_run: str | None,
        fields: Sequence[str],
    ) -> "_Inputs":
        """Open the inputs of `evaluate`; its arguments and errors."""
        run = EvaluatedRun.open(run_url)
        known = None if truth is None else Truth.open(truth)
        reference = None if undeformed_run is None else EvaluatedRun.open(undeformed_run)
        for other in (known, reference):
            if other is not None and other.shape != run.shape:
                raise SourceError(
                    f"{other.url}: its volume is {other.shape}, but the one that {run_url} aligns is {run.shape}; "
                    "give the one that belongs to this alignment."
                )
        if labels is None and known is not None:
            labels = known.labels
        missing = frozenset[int]() if known is None else known.missing
        sections = [z for z in range(run.shape[0]) if z not in missing]
        foreign = tuple(_foreign_candidates(fields, run))
        return cls(run=run, truth=known, reference=reference, labels=labels, sections=sections, foreign=foreign)


def evaluate(
    run_url: str,
    *,
    truth: str | None = None,
    labels: str | None = None,
    undeformed_run: str | None = None,
    fields: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Evaluation:
    """Measure a run.

    Args:
        run_url: OUT.zarr of the alignment.
        truth: the simulated volume that was aligned, or one with the same sections.
        labels: labels in the frame of the run's source; None: those of `truth`, if it has any.
        undeformed_run: an alignment, by the same method, of the undeformed sections.
        fields: other alignments of the same source, which become further candidates: runs, field arrays, scenes of
            OME-Zarr 0.6, or folders with one NRRD file per section.
        progress: function of the number of steps that are done, and of all steps.

    Raises:
        SourceError: something is missing, unfinished, or has another shape than the run.
        OutputError: `run_url` or `undeformed_run` is not an alignment.
        ConventionError: fields or truth follow other conventions.
    """
    inputs = _Inputs.open(run_url, truth=truth, labels=labels, undeformed_run=undeformed_run, fields=fields)
    count = len(inputs.sections)
    steps = len(inputs.candidates) + count
    values, curves = _measure_fields(inputs, progress=lambda done: progress(done, steps))
    pixels = _measure_pixels(inputs, progress=lambda done: progress(steps - count + done, steps))
    for name, measured in pixels.items():
        values.setdefault(name, {}).update(measured)
    _add_ratios(values)
    rows = tuple(EvaluationRow(name, row) for name, row in values.items())
    return Evaluation(
        run=run_url,
        truth=truth,
        labels=inputs.labels,
        undeformed_run=undeformed_run,
        sections=len(inputs.sections),
        rows=rows,
        metrics=measured_metrics(rows),
        notes=tuple(_notes(inputs)),
        curves=curves,
        verdict=make_verdict(
            values,
            truth=inputs.truth,
            has_reference=inputs.reference is not None,
            pixel_size=inputs.run.volume().info.pixel_size,
        ),
        in_doubt=metrics_in_doubt(values["aligned"], truth=inputs.truth),
    )


def _foreign_candidates(fields: Sequence[str], run: EvaluatedRun) -> Iterator[Candidate]:
    """Yield the candidates of other fields, named by the last part of their URLs."""
    info = run.volume().info
    names = {"observed", "coarse", "aligned", _UNDEFORMED}
    for url in fields:
        name = base = url.rstrip("/").rpartition("/")[2] or url
        number = 2
        while name in names:
            name, number = f"{base} ({number})", number + 1
        names.add(name)
        yield foreign_candidate(open_section_maps(url, info=info), name)


def _measure_fields(
    inputs: _Inputs, *, progress: Callable[[int], None]
) -> tuple[dict[str, dict[str, float]], dict[str, ErrorCurve]]:
    """Return the metrics of the fields by candidate, and with a truth the error curves by candidate."""
    run, truth, sections = inputs.run, inputs.truth, inputs.sections
    values: dict[str, dict[str, float]] = {}
    curves: dict[str, ErrorCurve] = {}
    for done, candidate in enumerate(inputs.candidates):
        progress(done)
        row = dict(measure_tissue_change(candidate, run=run, sections=sections))
        if truth is not None:
            meter = ErrorCurveMeter()
            row.update(measure_alignment(candidate, truth=truth, sections=sections, curve=meter))
            curves[candidate.name] = meter.result()
        values[candidate.name] = row
    values["aligned"].update(measure_held_out(run))
    if inputs.reference is not None:
        for candidate, undeformed in zip(run.candidates(), inputs.reference.candidates(), strict=True):
            row = values[candidate.name]
            row.update(measure_null_test(undeformed, shape_yx=(run.shape[1], run.shape[2]), sections=sections))
            if truth is not None:
                row.update(measure_recovery(candidate, undeformed=undeformed, truth=truth, sections=sections))
    return values, curves


def _measure_pixels(inputs: _Inputs, *, progress: Callable[[int], None]) -> dict[str, Mapping[str, float]]:
    """Return similarity and label overlap by candidate, the undeformed sections included if they are known."""
    views = _views(inputs.run, inputs.candidates, truth=inputs.truth, labels=inputs.labels)
    measured = measure_appearance(views, sections=inputs.sections, progress=progress)
    return {view.candidate.name: row for view, row in zip(views, measured, strict=True)}


def _views(
    run: EvaluatedRun, candidates: Sequence[Candidate], *, truth: Truth | None, labels: str | None
) -> Sequence[View]:
    image = run.volume()
    source_labels = None if labels is None else _same_sections(labels, like=image)
    views = [
        View(candidate, image=image, labels=source_labels, damage=None if truth is None else truth.damage)
        for candidate in candidates
    ]
    if truth is not None:
        # Labels that the user gave need not be those of the truth, so they have no undeformed counterpart.
        truth_labels = truth.truth_labels if labels == truth.labels else None
        views.append(
            View(
                Candidate(_UNDEFORMED, zero_displacements),
                image=_undeformed_image(truth, like=image),
                labels=None if truth_labels is None else _same_sections(truth_labels, like=image),
                damage=None,
            )
        )
    return views


def _undeformed_image(truth: Truth, *, like: Volume) -> PixelSource:
    if isinstance(truth.source, PhantomConfig):
        return PhantomSections(truth.source)
    return _same_sections(truth.source, like=like)


def _same_sections(url: str, *, like: Volume) -> Volume:
    volume = Volume.open(url, like=like.info)
    if volume.info.shape != like.info.shape:
        raise SourceError(
            f"{url}: its shape is {volume.info.shape}, but the sections of {like.url} have {like.info.shape}; "
            "give the volume that belongs to them."
        )
    return volume


def _add_ratios(values: Mapping[str, dict[str, float]]) -> None:
    undeformed = values.get(_UNDEFORMED, {})
    for row in values.values():
        for name in _OVERLAPS:
            if name in row and undeformed.get(name, 0.0) > 0.0:
                row[f"{name}_ratio"] = row[name] / undeformed[name]


def _notes(inputs: _Inputs) -> list[str]:
    run, truth, reference = inputs.run, inputs.truth, inputs.reference
    notes = []
    if run.state != "complete":
        notes.append(f"The alignment is '{run.state}', not complete: its unknown parts were left out.")
    if reference is not None and reference.state != "complete":
        notes.append(f"The alignment of the undeformed sections is '{reference.state}', not complete.")
    if truth is None:
        notes.append(
            "Without a known truth there is no jitter, drift or recovery; "
            "similarity and consistency cannot distinguish distortion from over-alignment."
        )
        if TRUTH_KEY in (group_attributes(run.source) or {}):
            notes.append(f"The source is a simulated volume: give its truth, {run.source}, to measure against it.")
    elif truth.missing:
        notes.append(f"Sections without tissue were left out: {', '.join(str(z) for z in sorted(truth.missing))}.")
    if inputs.labels is None:
        notes.append("Without labels there is no Dice or IoU.")
    if truth is not None and reference is None:
        notes.append("Without a run on the undeformed sections there is no null test and no recovery.")
    return notes
