"""Commands that make volumes and weights: import, simulate, train."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssem_dask.cli import console
from ssem_dask.cli.cluster import open_executor
from ssem_dask.cli.options import Json, PixelSize, SectionThickness, channel_choice
from ssem_dask.errors import ConfigError, WeightsError
from ssem_dask.extras import require_extra

if TYPE_CHECKING:
    from ssem_dask.registration.encoders.weights_file import TrainedWeights
    from ssem_dask.runtime.executor import Executor
    from ssem_dask.storage.formats.channel_set import Channels
    from ssem_dask.storage.volume import Volume
    from ssem_dask.types import AnyArray
    from ssem_dask.volumes.import_plan import ImportPlan

_PHANTOM = "phantom"
_TRAINING_SIDE_PX = 1024
_TRAINING_PIXELS = 1 << 25
"""Bound on the memory of training: about 21 bytes per pixel, since every section is kept at three scales."""


_FIGURES = {
    "found": "share of patches whose place in a section nearby was found to within one feature pixel; high is good",
    "relative_squared_error": "mean squared error of reconstructed patches, relative to their variance; low is good",
    "r2": "one minus that error; high is good",
}
"""Meaning of the figures of a training."""


class DeformationPreset(StrEnum):
    """Presets of `simulate --deformation`, as `ssem_dask.evaluation.deformation.Preset` has them."""

    STANDARD = "standard"
    SMOOTH = "smooth"
    ROUGH = "rough"
    NONE = "none"


class EncoderKind(StrEnum):
    """Encoders that `train` can train."""

    AUTOENCODER = "autoencoder"
    METRIC = "metric"


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or glob of TIFF, PNG or JPEG sections, multi-page TIFF, HDF5 (file.h5[:/dataset]), N5, "
            "neuroglancer-precomputed, Zarr v2 or v3, also in a zip file."
        ),
    ],
    destination: Annotated[str, typer.Argument(help="OME-Zarr image to write, at a path or any fsspec URL.")],
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    labels: Annotated[bool, typer.Option("--labels", help="The values are segmentation ids.")] = False,
    pyramid: Annotated[
        bool,
        typer.Option(
            "--pyramid/--no-pyramid",
            help="Write coarser levels too, down to 256 px. --no-pyramid skips them: faster and 25 % smaller, but "
            "align and view become slower.",
        ),
    ] = True,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an existing volume, once the new one is whole; until then both take space.",
        ),
    ] = False,
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel",
            help="The only channel to import, by number from 0 or by name. With --channels: the one that align "
            "registers.",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels",
            help="Keep several channels (detectors such as BSE and SE2, fluorescence stains, colours): `all`, or some "
            "by number or name, separated by commas. They may be in one file, in files named BSD_001, SE2_001 and so "
            "on, or in a folder each. align registers one of them and warps all.",
            show_default=False,
        ),
    ] = None,
    time: Annotated[
        int | None, typer.Option("--time", min=0, help="Time point to import, counted from 0.", show_default=False)
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            "--list",
            help="Text file with the names of the images in folder SOURCE in order of z, one per line. Default: "
            "the order of the numbers in their names.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes that import; each takes as many sections at a time as a shard is deep. Default: one per "
            "core for volumes of more than 2 GB, as memory allows.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a volume of another format to OME-Zarr, with all its levels. Memory is bounded for any size.

    Shows the order of the files, and what is noticeable about it and about the source. Safe to interrupt: run the same
    command again to resume.
    """
    from ssem_dask.volumes.importing import plan_import, run_import

    plan = plan_import(
        source,
        destination,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        labels=labels,
        channel=channel_choice(channel),
        channels=_parse_channels(channels),
        time=time,
        order=order,
        pyramid=pyramid,
        overwrite=overwrite,
    )
    for remark in plan.notes:
        console.note(f"import: {remark}")
    z, y, x = plan.info.shape
    with (
        _import_executor(plan, workers) as executor,
        console.progress_bar("import", total=z * y * x * plan.info.planes) as progress,
    ):
        info = run_import(
            plan,
            progress=lambda pixels: progress.advance(progress.task_ids[0], pixels),
            note=console.note,
            executor=executor,
        )
    if as_json:
        console.show_json(
            {
                "volume": destination,
                "shape": list(info.shape),
                "dtype": info.dtype.name,
                "channels": list(info.channels),
                "register": info.channel,
                "pixel_size": info.pixel_size,
                "section_thickness": info.section_thickness,
                "levels": plan.mips,
                "sections": {"first": plan.names[0], "last": plan.names[-1]} if plan.names else None,
                "notes": list(plan.notes),
            }
        )
        return
    sizes = [f"{info.pixel_size:g}", f"{info.section_thickness:g}"]
    has = {"channels": str(len(info.channels))} if info.channels else {}
    console.table(
        f"{source} → {destination}",
        columns=[*has, "sections", "y, px", "x, px", "levels", "type", "pixel, nm", "section, nm"],
        rows=[[*has.values(), str(z), str(y), str(x), str(plan.mips), info.dtype.name, *sizes]],
    )
    if not labels:
        console.note(f"Next: ssem-dask align {shlex.quote(destination)} aligned.zarr")


def _import_executor(plan: "ImportPlan", workers: int | None) -> "AbstractContextManager[Executor | None]":
    """Open workers of this machine for an import; None if one process does as well."""
    if workers is None:
        from ssem_dask.volumes.import_slabs import suggest_workers

        workers = suggest_workers(plan)
    return nullcontext() if workers == 1 else open_executor("local", workers=workers, work=plan)


def _parse_channels(text: str | None) -> "Channels | None":
    if text is None or text.strip().casefold() == "all":
        return None if text is None else "all"
    return [part.strip() for part in text.split(",") if part.strip()]


def simulate(
    source: Annotated[str, typer.Argument(help="Undeformed volume (Zarr), or the word phantom for a synthetic one.")],
    destination: Annotated[
        str, typer.Argument(help="Zarr group to write: the deformed sections, and the truth beside them.")
    ],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random deformation and damage.")],
    labels: Annotated[
        str | None, typer.Option("--labels", help="Segmentation of the same sections, to be deformed with them.")
    ] = None,
    preset: Annotated[
        DeformationPreset,
        typer.Option(
            "--deformation",
            help="standard: rotation, shift, scale and elastic; smooth, rough: elastic only; none: undeformed.",
        ),
    ] = DeformationPreset.STANDARD,
    rotation: Annotated[float | None, typer.Option(help="Largest rotation, degrees.", show_default=False)] = None,
    shift: Annotated[float | None, typer.Option(help="Largest shift, px.", show_default=False)] = None,
    elastic: Annotated[float | None, typer.Option(help="rms of the elastic part, px.", show_default=False)] = None,
    elastic_spacing: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Smallest and largest node spacing of the elastic part, px.", show_default=False),
    ] = None,
    damage: Annotated[float, typer.Option("--damage", min=0, max=1, help="Fraction of the sections to damage.")] = 0.0,
    missing: Annotated[list[int] | None, typer.Option("--missing", help="Section to drop; may be repeated.")] = None,
    sections: Annotated[int, typer.Option("--sections", min=1, help="Phantom: number of sections.")] = 20,
    size: Annotated[int, typer.Option("--size", min=64, help="Phantom: side of a section, px.")] = 512,
    oblique: Annotated[
        float, typer.Option("--oblique", min=0, help="Phantom: natural motion of the tissue, rms nm per section.")
    ] = 12.0,
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    as_json: Json = False,
) -> None:
    """Deform and damage sections by a known amount, to measure an alignment against the truth."""
    from ssem_dask.evaluation.deformation import DeformationConfig
    from ssem_dask.evaluation.phantom import PhantomConfig
    from ssem_dask.evaluation.simulate import simulate as simulate_volume
    from ssem_dask.evaluation.simulate import simulate_phantom
    from ssem_dask.evaluation.simulated_damage import DamageConfig

    options = {"rotation": rotation, "shift": shift, "elastic": elastic, "elastic_spacing": elastic_spacing}
    overrides = {key: value for key, value in options.items() if value is not None}
    deformation = DeformationConfig(**{**DeformationConfig.preset(preset.value).model_dump(), **overrides})
    damage_config = DamageConfig(fraction=damage, missing=tuple(missing or ()))
    with console.progress_bar("simulate", total=None) as progress:

        def advance(done: int, of: int) -> None:
            progress.update(progress.task_ids[0], completed=done, total=of)

        if source == _PHANTOM:
            if labels is not None:
                raise ConfigError("simulate phantom: --labels is given, but a phantom has its own; leave it out.")
            phantom = PhantomConfig(
                seed=seed,
                shape=(sections, size, size),
                pixel_size=pixel_size or 5.0,
                section_thickness=section_thickness or 40.0,
                oblique=oblique,
            )
            made = simulate_phantom(
                phantom, destination, seed=seed, deformation=deformation, damage=damage_config, progress=advance
            )
        else:
            made = simulate_volume(
                source,
                destination,
                seed=seed,
                deformation=deformation,
                damage=damage_config,
                labels=labels,
                progress=advance,
            )
    if as_json:
        console.show_json({"volume": made.url, "shape": list(made.shape), "damaged": made.damaged})
        return
    kinds = ", ".join(f"{z}: {kind}" for z, kind in made.damaged.items()) or "none"
    console.note(
        f"Wrote {made.url}: {made.shape[0]} sections of {made.shape[1]} × {made.shape[2]} px; damaged: {kinds}"
    )
    # Sections that nobody aligned have jitter of their own; what an alignment of them finds is set against.
    still = "" if source == _PHANTOM else f"ssem-dask align {source} STILL.zarr; "
    undeformed = " --undeformed STILL.zarr" if still else ""
    console.note(
        f"Next: ssem-dask align {made.url} OUT.zarr; {still}ssem-dask evaluate OUT.zarr --truth {made.url}{undeformed}"
    )


@dataclass(slots=True)
class _Trained:
    """A trained encoder that has been saved."""

    digest: str
    figures: dict[str, dict[str, float]]
    """Figures of merit, per set of sections."""
    losses: list[float]
    """The loss of every step."""


@dataclass(slots=True)
class _LossRecorder:
    """Progress callback of a training that also keeps the loss of every step."""

    show: Callable[[int, float], None]
    losses: list[float] = field(default_factory=list)

    def __call__(self, done: int, loss: float) -> None:
        self.losses.append(loss)
        self.show(done, loss)


def train(
    source: Annotated[str, typer.Argument(help="Volume (Zarr) to learn from; roughly aligned for `metric`.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Weights file to write, ending in .safetensors.")],
    encoder: Annotated[
        EncoderKind, typer.Option("--encoder", help="autoencoder: for ssemnet; metric: for gauss_newton.")
    ] = EncoderKind.AUTOENCODER,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Random seed: the same seed and data give the same weights.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Number of training steps.", show_default=False)
    ] = None,
    pixel_size: PixelSize = None,
    section_thickness: SectionThickness = None,
    as_json: Json = False,
) -> None:
    """Train an encoder on your own sections; to use it, set `encoder = "FILE"` in the table of the method.

    A plot of the loss is written beside the weights.
    """
    path = Path(file)
    if path.suffix != ".safetensors":
        raise WeightsError(f"train: {file} must end in .safetensors; rename it.")
    if not path.absolute().parent.is_dir():
        raise WeightsError(f"train: the folder of {file} does not exist; make it first.")
    require_extra("report", purpose="train")  # before minutes of computing
    from ssem_dask.report.loss import draw_loss
    from ssem_dask.storage.volume import Volume

    volume = Volume.open(source, pixel_size=pixel_size, section_thickness=section_thickness)
    command = shlex.join(["ssem-dask", "train", source, file, "--encoder", encoder.value, "--seed", str(seed)])
    if steps is not None:
        command = f"{command} --steps {steps}"
    trained = _train_encoder(volume, path, encoder=encoder, command=command, seed=seed, steps=steps)
    picture = path.with_suffix(".loss.png")
    draw_loss(trained.losses, title=f"{path.name}: {encoder.value}, seed {seed}", picture=picture)
    if as_json:
        import numpy as np

        last = float(np.mean(trained.losses[-max(1, len(trained.losses) // 50) :]))
        console.show_json(
            {
                "encoder": file,
                "digest": trained.digest,
                "figures": trained.figures,
                "loss": last,
                "picture": str(picture),
            }
        )
        return
    names = list(next(iter(trained.figures.values())))
    console.table(
        f"{file} (sha256 {trained.digest})",
        columns=["sections", *(name.replace("_", " ") for name in names)],
        rows=[
            [part.replace("_", " "), *(f"{row[name]:.3f}" for name in names)] for part, row in trained.figures.items()
        ],
    )
    for name in names:
        if name in _FIGURES:
            console.note(f"{name.replace('_', ' ')}: {_FIGURES[name]}")
    console.line(f"Loss of every step: {picture}")


def _train_encoder(
    volume: "Volume", path: Path, *, encoder: EncoderKind, command: str, seed: int, steps: int | None
) -> _Trained:
    run: Callable[..., TrainedWeights[Any]]
    if encoder is EncoderKind.METRIC:
        from ssem_dask.registration.encoders.train_metric import MetricTrainConfig, train_metric

        metric_config = MetricTrainConfig() if steps is None else MetricTrainConfig(steps=steps)
        run = partial(train_metric, config=metric_config, section_thickness=volume.info.section_thickness)
        read, figures, total = _consecutive_sections, "matching", metric_config.steps
    else:
        from ssem_dask.registration.encoders.train_autoencoder import TrainConfig, train_encoder

        config = TrainConfig() if steps is None else TrainConfig(steps=steps)
        run = partial(train_encoder, config=config)
        read, figures, total = _spread_sections, "reconstruction", config.steps
    with console.training_progress(total) as show:
        recorder = _LossRecorder(show)
        weights = run(
            read(volume),
            pixel_size=volume.info.pixel_size,
            command=command,
            seed=seed,
            device="cpu",
            progress=recorder,
        )
    return _Trained(weights.save(path), weights.metadata["training"][figures], recorder.losses)


def _consecutive_sections(volume: "Volume") -> "list[AnyArray]":
    """Read consecutive sections from the middle of the volume, in bounded memory for any volume."""
    count = _training_count(volume)
    first = (volume.info.shape[0] - count) // 2
    return list(_read_middle(volume, z_start=first, z_stop=first + count))


def _spread_sections(volume: "Volume") -> "list[AnyArray]":
    """Read sections that are spread evenly over the volume, in bounded memory for any volume."""
    z, count = volume.info.shape[0], _training_count(volume)
    chosen = [round(i * (z - 1) / max(1, count - 1)) for i in range(count)]
    return [_read_middle(volume, z_start=at, z_stop=at + 1)[0] for at in chosen]


def _training_count(volume: "Volume") -> int:
    """Return the number of sections to train with."""
    z, y, x = volume.info.shape
    return min(z, _TRAINING_PIXELS // (min(y, _TRAINING_SIDE_PX) * min(x, _TRAINING_SIDE_PX)))


def _read_middle(volume: "Volume", *, z_start: int, z_stop: int) -> "AnyArray":
    """Read some sections; of large ones only their middle."""
    from ssem_dask.geometry.box import Box

    _, y, x = volume.info.shape
    height, width = min(y, _TRAINING_SIDE_PX), min(x, _TRAINING_SIDE_PX)
    top, left = (y - height) // 2, (x - width) // 2
    return volume.read(Box((z_start, top, left), (z_stop, top + height, left + width)))
