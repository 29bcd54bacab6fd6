"""Commands that make or bring in data: import, simulate, train."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer

from ssem_dask.cli import console
from ssem_dask.cli.run_commands import Json, PixelSize, Thickness
from ssem_dask.errors import ConfigError, WeightsError
from ssem_dask.evaluation.deformation import DeformationConfig, Preset
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulate import simulate as simulate_volume
from ssem_dask.evaluation.simulate import simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.geometry.box import Box
from ssem_dask.registration.encoders.metric import save_metric
from ssem_dask.registration.encoders.stored_autoencoder import save_weights
from ssem_dask.registration.encoders.train_autoencoder import TrainConfig, train_encoder
from ssem_dask.registration.encoders.train_metric import MetricTrainConfig, train_metric
from ssem_dask.report.loss import draw_loss
from ssem_dask.storage.volume import Volume
from ssem_dask.types import AnyArray
from ssem_dask.volumes.importing import import_volume, plan_import

_Figures: TypeAlias = dict[str, dict[str, float]]
_Trained: TypeAlias = tuple[str, _Figures, list[float]]
"""Digest of the weights, figures of merit, and the loss of every step."""

_PHANTOM = "phantom"
_TRAINING_SIDE = 1024
_TRAINING_PIXELS = 1 << 25
"""Bounds the memory of training: about 21 bytes a pixel, since every section is kept at three scales."""


class EncoderKind(StrEnum):
    """What `train` trains."""

    AUTOENCODER = "autoencoder"
    METRIC = "metric"


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or glob of TIFF, PNG or JPEG sections, a multi-page TIFF, file.h5[:/dataset], Zarr v2 or v3."
        ),
    ],
    destination: Annotated[str, typer.Argument(help="Zarr group to write: any fsspec URL.")],
    pixel_size: PixelSize = None,
    section_thickness: Thickness = None,
    labels: Annotated[bool, typer.Option("--labels", help="The values are ids of a segmentation.")] = False,
    pyramid: Annotated[
        bool,
        typer.Option(
            "--pyramid/--no-pyramid",
            help="Coarser levels as well, down to 256 px; --no-pyramid: none, which takes less time and a quarter less "
            "room, but makes align and view slower.",
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a volume that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a volume into Zarr, with all levels, in bounded memory, whatever its size."""
    plan = plan_import(
        source,
        destination,
        pixel_size=pixel_size,
        section_thickness=section_thickness,
        labels=labels,
        pyramid=pyramid,
        overwrite=overwrite,
    )
    z, y, x = plan.info.shape
    with console.counting("import", total=z * y * x) as progress:
        info = import_volume(
            source,
            destination,
            pixel_size=pixel_size,
            section_thickness=section_thickness,
            labels=labels,
            pyramid=pyramid,
            overwrite=overwrite,
            progress=lambda pixels: progress.advance(progress.task_ids[0], pixels),
        )
    if as_json:
        console.show_json(
            {
                "volume": destination,
                "shape": list(info.shape),
                "dtype": info.dtype.name,
                "pixel_size": info.pixel_size,
                "section_thickness": info.section_thickness,
                "levels": plan.mips,
            }
        )
        return
    console.table(
        f"{source} → {destination}",
        columns=["sections", "y, px", "x, px", "levels", "type", "pixel, nm", "section, nm"],
        rows=[
            [
                str(z),
                str(y),
                str(x),
                str(plan.mips),
                info.dtype.name,
                f"{info.pixel_size:g}",
                f"{info.section_thickness:g}",
            ]
        ],
    )


def simulate(
    source: Annotated[str, typer.Argument(help="Undeformed volume (Zarr), or the word phantom for a made-up one.")],
    destination: Annotated[str, typer.Argument(help="Zarr group to write; the truth is kept beside the sections.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another deformation and damage.")],
    labels: Annotated[str | None, typer.Option("--labels", help="Segmentation of the same sections.")] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            "--deformation", help="standard: rotation, shift, scale and elastic; smooth, rough: elastic only."
        ),
    ] = "standard",
    rotation: Annotated[float | None, typer.Option(help="Largest rotation, degrees.", show_default=False)] = None,
    shift: Annotated[float | None, typer.Option(help="Largest shift, px.", show_default=False)] = None,
    elastic: Annotated[float | None, typer.Option(help="rms of the elastic part, px.", show_default=False)] = None,
    elastic_spacing: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Range of the elastic part's node spacing, px.", show_default=False),
    ] = None,
    damage: Annotated[float, typer.Option("--damage", min=0, max=1, help="Share of the sections to damage.")] = 0.0,
    missing: Annotated[list[int] | None, typer.Option("--missing", help="Section to lose; may be repeated.")] = None,
    sections: Annotated[int, typer.Option("--sections", min=1, help="Phantom: number of sections.")] = 20,
    size: Annotated[int, typer.Option("--size", min=64, help="Phantom: side of a section, px.")] = 512,
    oblique: Annotated[
        float, typer.Option("--oblique", min=0, help="Phantom: natural motion of the tissue, nm per section rms.")
    ] = 12.0,
    pixel_size: PixelSize = None,
    section_thickness: Thickness = None,
    as_json: Json = False,
) -> None:
    """Deform and damage sections by a known amount, to measure an alignment against the truth."""
    given = {"rotation": rotation, "shift": shift, "elastic": elastic, "elastic_spacing": elastic_spacing}
    base = DeformationConfig.preset(preset).model_dump()
    deformation = DeformationConfig(**{**base, **{key: value for key, value in given.items() if value is not None}})
    damaged = DamageConfig(fraction=damage, missing=tuple(missing or ()))
    with console.counting("simulate", total=None) as progress:

        def advance(done: int, of: int) -> None:
            progress.update(progress.task_ids[0], completed=done, total=of)

        if source == _PHANTOM:
            if labels is not None:
                raise ConfigError("simulate phantom: --labels is given, but a phantom brings its own; leave it out.")
            phantom = PhantomConfig(
                seed=seed,
                shape=(sections, size, size),
                pixel_size=pixel_size or 5.0,
                section_thickness=section_thickness or 40.0,
                oblique=oblique,
            )
            done = simulate_phantom(
                phantom, destination, seed=seed, deformation=deformation, damage=damaged, progress=advance
            )
        else:
            done = simulate_volume(
                source,
                destination,
                seed=seed,
                deformation=deformation,
                damage=damaged,
                labels=labels,
                progress=advance,
            )
    if as_json:
        console.show_json({"volume": done.url, "shape": list(done.shape), "damaged": done.damaged})
        return
    kinds = ", ".join(f"{z}: {kind}" for z, kind in done.damaged.items()) or "none"
    console.note(
        f"Wrote {done.url}: {done.shape[0]} sections of {done.shape[1]} × {done.shape[2]} px; damaged: {kinds}"
    )
    console.note(f"Next: ssem-dask align {done.url} OUT.zarr; ssem-dask evaluate OUT.zarr --truth {done.url}")


def train(
    source: Annotated[str, typer.Argument(help="Volume (Zarr) to learn from; roughly aligned for `metric`.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to write, ending in .safetensors.")],
    encoder: Annotated[
        EncoderKind, typer.Option("--encoder", help="autoencoder: for ssemnet; metric: for gauss_newton.")
    ] = EncoderKind.AUTOENCODER,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed and data, same weights.")] = 0,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps of training.", show_default=False)] = None,
    pixel_size: PixelSize = None,
    section_thickness: Thickness = None,
    as_json: Json = False,
) -> None:
    """Train an encoder on your own sections; use it by `encoder = "FILE"` in the table of the method.

    A picture of the loss is written beside the weights.
    """
    path = Path(file)
    if path.suffix != ".safetensors":
        raise WeightsError(f"train: {file} must end in .safetensors; rename it.")
    if not path.absolute().parent.is_dir():
        raise WeightsError(f"train: the folder of {file} does not exist; make it first.")
    volume = Volume.open(source, pixel_size=pixel_size, section_thickness=section_thickness)
    command = shlex.join(["ssem-dask", "train", source, file, "--encoder", encoder.value, "--seed", str(seed)])
    if steps is not None:
        command = f"{command} --steps {steps}"
    train_kind = _train_metric if encoder is EncoderKind.METRIC else _train_autoencoder
    digest, figures, losses = train_kind(volume, path, command=command, seed=seed, steps=steps)
    picture = path.with_suffix(".loss.png")
    draw_loss(losses, title=f"{path.name}: {encoder.value}, seed {seed}", picture=picture)
    if as_json:
        last = float(np.mean(losses[-max(1, len(losses) // 50) :]))
        console.show_json(
            {"encoder": file, "digest": digest, "figures": figures, "loss": last, "picture": str(picture)}
        )
        return
    names = list(next(iter(figures.values())))
    console.table(
        f"{file} (sha256 {digest})",
        columns=["sections", *(name.replace("_", " ") for name in names)],
        rows=[[part.replace("_", " "), *(f"{row[name]:.3f}" for name in names)] for part, row in figures.items()],
    )
    console.out.print(f"Loss of every step: {picture}")


def _train_metric(volume: Volume, path: Path, *, command: str, seed: int, steps: int | None) -> _Trained:
    config = MetricTrainConfig() if steps is None else MetricTrainConfig(steps=steps)
    losses: list[float] = []
    with console.training(config.steps) as show:

        def progress(done: int, loss: float) -> None:
            losses.append(loss)
            show(done, loss)

        weights = train_metric(
            _consecutive_sections(volume),
            pixel_size=volume.info.pixel_size,
            section_thickness=volume.info.section_thickness,
            command=command,
            config=config,
            seed=seed,
            device="cpu",
            progress=progress,
        )
    return save_metric(weights, path), weights.metadata["training"]["matching"], losses


def _train_autoencoder(volume: Volume, path: Path, *, command: str, seed: int, steps: int | None) -> _Trained:
    config = TrainConfig() if steps is None else TrainConfig(steps=steps)
    losses: list[float] = []
    with console.training(config.steps) as show:

        def progress(done: int, loss: float) -> None:
            losses.append(loss)
            show(done, loss)

        weights = train_encoder(
            _training_sections(volume),
            pixel_size=volume.info.pixel_size,
            command=command,
            config=config,
            seed=seed,
            device="cpu",
            progress=progress,
        )
    return save_weights(weights, path), weights.metadata["training"]["reconstruction"], losses


def _consecutive_sections(volume: Volume) -> list[AnyArray]:
    """Sections from the middle of the volume, one after the other: bounded memory for any volume."""
    z, y, x = volume.info.shape
    height, width = min(y, _TRAINING_SIDE), min(x, _TRAINING_SIDE)
    count = min(z, _TRAINING_PIXELS // (height * width))
    first, top, left = (z - count) // 2, (y - height) // 2, (x - width) // 2
    return list(volume.read(Box((first, top, left), (first + count, top + height, left + width))))


def _training_sections(volume: Volume) -> list[AnyArray]:
    """Sections evenly spread over the volume, their middle where they are large: bounded memory for any volume."""
    z, y, x = volume.info.shape
    height, width = min(y, _TRAINING_SIDE), min(x, _TRAINING_SIDE)
    count = min(z, _TRAINING_PIXELS // (height * width))
    top, left = (y - height) // 2, (x - width) // 2
    chosen = [round(i * (z - 1) / max(1, count - 1)) for i in range(count)]
    return [volume.read(Box((at, top, left), (at + 1, top + height, left + width)))[0] for at in chosen]
