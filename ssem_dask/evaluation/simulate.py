"""Simulated volumes: undeformed sections, deformed and damaged by a known amount, with the truth stored beside them.

Law: the same source, seed and parameters write the same bytes. One section is in memory at a time, beside the slab that
the source reads at once. An unfinished simulation is marked, so nothing reads it as a volume. Simulating again with the
same parameters completes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ssem_dask.errors import OutputError
from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.evaluation.metrics.alignment_error import SPACING
from ssem_dask.evaluation.observation import ObservedSection, observe_section, truth_field
from ssem_dask.evaluation.phantom import PhantomConfig
from ssem_dask.evaluation.simulated_damage import ABSENT, DamageConfig, DamageKind, draw_damage, plan_damage
from ssem_dask.evaluation.truth import TRUTH_KEY
from ssem_dask.evaluation.undeformed import PhantomSections, StoredSections, UndeformedSections
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.box import Box
from ssem_dask.geometry.chunks import round_up
from ssem_dask.storage import arrays, fields, location
from ssem_dask.storage.fields import FieldInfo
from ssem_dask.storage.location import join
from ssem_dask.storage.places import is_occupied, refuse_overlap
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.storage.volume_checks import IMPORT_KEY
from ssem_dask.types import AnyArray, ShapeZYX

Progress: TypeAlias = Callable[[int, int], None]
"""Callback with (sections done, total sections)."""

_CHUNK_PX = 512
_MAX_SHARD_PX = 8192
"""Largest shard: most sections are one file."""
_NOISE_STREAM = 4
"""Random stream, different from those of deformation and damage."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated volume that was written."""

    url: str
    shape: ShapeZYX
    damaged: dict[int, DamageKind]
    """Kind of damage by z of the damaged sections."""


def simulate(
    source: str,
    destination: str,
    *,
    seed: int,
    deformation: DeformationConfig,
    damage: DamageConfig,
    labels: str | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Deform and damage the sections of a stored volume; the layout on disk is that of `truth`.

    Args:
        source: URL of the undeformed volume.
        destination: URL of the simulated volume; it must be empty, or hold the same simulation, unfinished.
        seed: seed of all randomness.
        deformation: distribution of the deformations of the sections.
        damage: distribution of the damage.
        labels: URL of labels of the same sections, or None.
        progress: callback after every section.

    Raises:
        SourceError: source or labels cannot be used.
        OutputError: something is at the destination, or it cannot be written.
        ConfigError: a section that is listed as missing or blank is not in the volume.
    """
    refuse_overlap(destination, {"the source": source, "the labels": labels})
    return simulate_sections(
        StoredSections(source, labels=labels),
        destination,
        seed=seed,
        deformation=deformation,
        damage=damage,
        progress=progress,
    )


def simulate_phantom(
    config: PhantomConfig,
    destination: str,
    *,
    seed: int,
    deformation: DeformationConfig,
    damage: DamageConfig,
    progress: Progress | None = None,
) -> Simulation:
    """Deform and damage the sections of a phantom, which is never stored undeformed; see `simulate`."""
    return simulate_sections(
        PhantomSections(config), destination, seed=seed, deformation=deformation, damage=damage, progress=progress
    )


def simulate_sections(
    source: UndeformedSections,
    destination: str,
    *,
    seed: int,
    deformation: DeformationConfig,
    damage: DamageConfig,
    progress: Progress | None = None,
) -> Simulation:
    """Deform and damage any undeformed sections; see `simulate`."""
    shape = source.info.shape
    shape_yx = (shape[1], shape[2])
    plan = plan_damage(damage, seed=seed, sections=shape[0])
    attributes: dict[str, Any] = {
        "seed": seed,
        "source": source.description,
        "parameters": {"deformation": deformation.model_dump(mode="json"), "damage": damage.model_dump(mode="json")},
        "labels": source.label_dtype is not None,
        "natural": isinstance(source.description, dict),
        "damaged": {str(z): kind for z, kind in plan.items()},
        "missing": [z for z, kind in plan.items() if kind in ABSENT],
    }
    _claim(destination, attributes)
    target = _Target.create(destination, source=source)
    grid = Grid.of_section(shape_yx, spacing=SPACING)
    for z, section in enumerate(source.sections()):
        deformation_z = draw_deformation(deformation, seed=seed, z=z, shape_yx=shape_yx)
        damage_z = draw_damage(plan[z], config=damage, seed=seed, z=z, shape_yx=shape_yx) if z in plan else None
        observed = observe_section(
            section.image,
            labels=section.labels,
            deformation=deformation_z,
            damage=damage_z,
            noise=np.random.default_rng([seed, _NOISE_STREAM, z]),
        )
        field = truth_field(deformation=deformation_z, damage=damage_z, grid=grid).numpy()
        target.write(z, observed=observed, field=field, truth_labels=section.labels)
        if progress is not None:
            progress(z + 1, shape[0])
    _mark(destination, attributes, state="complete")
    return Simulation(url=destination, shape=shape, damaged=plan)


@dataclass(frozen=True, slots=True)
class _Target:
    """The arrays of a simulated volume; one shard holds one section, so sections are written independently."""

    image: Volume
    field: arrays.ZarrArray
    damage: arrays.ZarrArray
    labels: Volume | None
    truth_labels: Volume | None

    @classmethod
    def create(cls, url: str, *, source: UndeformedSections) -> "_Target":
        shape = source.info.shape
        info = FieldInfo(spacing=SPACING, shape_mip0=shape)
        labels = truth_labels = None
        if source.label_dtype is not None:
            described = VolumeInfo(
                shape=shape,
                dtype=source.label_dtype,
                pixel_size=source.info.pixel_size,
                section_thickness=source.info.section_thickness,
            )
            labels = _sectionwise_volume(join(url, "labels"), info=described)
            truth_labels = _sectionwise_volume(join(url, "truth", "labels"), info=described)
        return cls(
            image=_sectionwise_volume(url, info=source.info.without_channels),
            field=fields.create_field(
                join(url, "truth", "field"),
                info=info,
                leading=(),
                components=True,
                chunks=(1, 2, _CHUNK_PX, _CHUNK_PX),
                shards=(1, 2, *_shard(info.nodes)),
            ),
            damage=arrays.create_array(
                join(url, "truth", "damage"),
                shape=shape,
                dtype=np.uint8,
                axes=("z", "y", "x"),
                chunks=(1, _CHUNK_PX, _CHUNK_PX),
                shards=(1, *_shard((shape[1], shape[2]))),
                fill_value=0,
                attributes={},
            ),
            labels=labels,
            truth_labels=truth_labels,
        )

    def write(self, z: int, *, observed: ObservedSection, field: AnyArray, truth_labels: AnyArray | None) -> None:
        """Write all arrays of section z."""
        _write_section(self.image, z, observed.image)
        with location.writing(self.image.url):
            self.field[z] = field
            self.damage[z] = observed.damage.astype(np.uint8)
        if self.labels is not None and self.truth_labels is not None:
            assert observed.labels is not None
            assert truth_labels is not None
            _write_section(self.labels, z, observed.labels)
            _write_section(self.truth_labels, z, truth_labels)


def _shard(extent: tuple[int, int]) -> tuple[int, int]:
    y, x = (min(round_up(n, multiple=_CHUNK_PX), _MAX_SHARD_PX) for n in extent)
    return y, x


def _sectionwise_volume(url: str, *, info: VolumeInfo) -> Volume:
    shard = (1, *_shard((info.shape[1], info.shape[2])))
    return create_volume(url, info=info, chunk=(1, _CHUNK_PX, _CHUNK_PX), shard=shard, mips=1)


def _write_section(volume: Volume, z: int, values: AnyArray) -> None:
    volume.write(Box((z, 0, 0), (z + 1, values.shape[0], values.shape[1])), values[None])


def _claim(url: str, attributes: dict[str, Any]) -> None:
    """Make the group, marked as unfinished; refuse a URL at which anything but the same simulation was started."""
    started = (arrays.group_attributes(url) or {}).get(TRUTH_KEY)
    if started is None:
        if is_occupied(url):
            raise OutputError(f"{url}: something is already there; choose another destination or delete it.")
    elif started != {**attributes, "state": "simulating"}:
        raise OutputError(
            f"{url}: a simulated volume is already there (seed {started.get('seed')}, state '{started.get('state')}'); "
            "choose another destination or delete it."
        )
    _mark(url, attributes, state="simulating")


def _mark(url: str, attributes: dict[str, Any], *, state: str) -> None:
    arrays.create_group(url, attributes={TRUTH_KEY: {**attributes, "state": state}, IMPORT_KEY: {"state": state}})
