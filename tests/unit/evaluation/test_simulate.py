"""Simulated volumes: readable, reproducible byte by byte, honest about being unfinished."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ssem_dask.errors import ConfigError, OutputError, SourceError
from ssem_dask.evaluation.deformation import DeformationConfig
from ssem_dask.evaluation.observation import nearest_labels
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.evaluation.simulate import Simulation, simulate, simulate_phantom
from ssem_dask.evaluation.simulated_damage import DamageConfig
from ssem_dask.evaluation.truth import Truth
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image
from ssem_dask.geometry.box import Box
from ssem_dask.storage.volume import Volume, VolumeInfo, create_volume
from ssem_dask.types import AnyArray
from tests.support.deformations import section_deformation

pytestmark = pytest.mark.slow

SHAPE = (6, 150, 190)
DAMAGE = DamageConfig(fraction=0.34, kinds=("crack", "contrast"), missing=(2,), blank=(4,))


def stored(url: Path, values: AnyArray) -> str:
    info = VolumeInfo(shape=values.shape, dtype=values.dtype, pixel_size=5.0, section_thickness=40.0)
    volume = create_volume(str(url), info=info, chunk=(4, 64, 64), shard=(4, 256, 256), mips=1)
    for z in range(0, values.shape[0], 4):
        stop = min(z + 4, values.shape[0])
        volume.write(Box((z, 0, 0), (stop, *values.shape[1:])), values[z:stop])
    return str(url)


@pytest.fixture
def image(tmp_path: Path) -> str:
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    smooth = gaussian_filter(noise, (0, 2, 2))
    return stored(tmp_path / "image.zarr", np.clip(128 + 600 * smooth, 1, 255).astype(np.uint8))


@pytest.fixture
def labels(tmp_path: Path) -> str:
    z, y, x = np.indices(SHAPE)
    return stored(tmp_path / "labels.zarr", (1 + y // 30 * 10 + x // 30 + 2**33 + z * 0).astype(np.uint64))


def simulated(image: str, destination: Path, *, labels: str | None = None, seed: int = 3) -> Simulation:
    return simulate(
        image, str(destination), seed=seed, deformation=DeformationConfig(), damage=DAMAGE, labels=labels, progress=None
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def whole(url: str) -> AnyArray:
    volume = Volume.open(url)
    return volume.read(Box((0, 0, 0), volume.info.shape))


def test_the_observed_sections_are_the_source_pulled_by_the_truth(image: str, labels: str, tmp_path: Path) -> None:
    result = simulated(image, tmp_path / "out.zarr", labels=labels)
    truth = Truth.open(result.url)
    observed, source, ids = whole(result.url), whole(image), whole(labels)
    observed_labels = whole(truth.labels or "")
    assert truth.missing == {2, 4}
    assert set(result.damaged) > {2, 4}
    assert np.array_equal(whole(truth.truth_labels or ""), ids)
    assert truth.source == image
    pixels = Grid(SHAPE[1:], 1.0)
    checked = 0
    for z in range(SHAPE[0]):
        if z in result.damaged:
            continue
        field = section_deformation(DeformationConfig(), seed=3, z=z, shape_yx=SHAPE[1:], grid=pixels)
        kept = section_deformation(
            DeformationConfig(), seed=3, z=z, shape_yx=SHAPE[1:], grid=Grid.of_section(SHAPE[1:], spacing=4)
        )
        assert torch.equal(truth.field(z), kept)
        positions = pixels.positions() + field
        expected, mask = sample_image(
            torch.from_numpy(source[z].astype(np.float32))[None], grid=pixels, positions=positions, kind="bicubic"
        )
        difference = np.abs(observed[z] - expected[0].clamp(0, 255).numpy())
        assert difference.max() <= 0.51
        assert not observed[z][~mask.numpy()].any()
        assert np.array_equal(observed_labels[z], nearest_labels(ids[z], positions=positions))
        assert not truth.damage(z).any()
        checked += 1
    assert checked >= 2
    for z in (2, 4):
        assert truth.damage(z).all()
        assert bool(torch.isnan(truth.field(z)).all())


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(image: str, tmp_path: Path) -> None:
    for name, seed in (("a.zarr", 3), ("b.zarr", 3), ("c.zarr", 4)):
        simulated(image, tmp_path / name / "same.zarr", seed=seed)
    a, b, c = (files(tmp_path / name / "same.zarr") for name in ("a.zarr", "b.zarr", "c.zarr"))
    assert a == b
    assert a.keys() == c.keys() or a != c
    assert a["0/c/0/0/0"] != c["0/c/0/0/0"]


def test_progress_counts_sections(image: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    simulate(
        image,
        str(tmp_path / "out.zarr"),
        seed=0,
        deformation=DeformationConfig(),
        damage=DamageConfig(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 6) for i in range(6)]


class Interrupted(Exception):  # noqa: N818
    pass


def test_an_unfinished_simulation_is_not_readable_and_can_be_finished(image: str, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise Interrupted

    url = str(tmp_path / "out.zarr")
    settings = {"deformation": DeformationConfig(), "damage": DAMAGE}
    with pytest.raises(Interrupted):
        simulate(image, url, seed=3, **settings, progress=stop)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="not finished"):
        Volume.open(url)
    with pytest.raises(SourceError, match="unfinished"):
        Truth.open(url)
    with pytest.raises(OutputError, match="is already there"):
        simulated(image, tmp_path / "out.zarr", seed=4)
    simulated(image, tmp_path / "out.zarr")
    undisturbed = simulated(image, tmp_path / "other" / "out.zarr")
    assert files(tmp_path / "out.zarr") == files(Path(undisturbed.url))


def test_a_finished_simulation_and_foreign_folders_are_not_overwritten(image: str, tmp_path: Path) -> None:
    simulated(image, tmp_path / "out.zarr")
    before = files(tmp_path / "out.zarr")
    with pytest.raises(OutputError, match="is already there"):
        simulated(image, tmp_path / "out.zarr")
    assert files(tmp_path / "out.zarr") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="something is already there"):
        simulated(image, tmp_path / "mine")
    assert files(tmp_path / "mine") == {"notes.txt": b"keep"}


def test_unusable_sources_are_refused_before_anything_is_written(image: str, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(SourceError, match=r"nothing|no Zarr"):
        simulated(str(tmp_path / "absent.zarr"), out)
    floats = stored(tmp_path / "floats.zarr", np.ones(SHAPE, np.float32))
    with pytest.raises(SourceError, match="uint8 or uint16"):
        simulated(floats, out)
    with pytest.raises(SourceError, match="must be integers"):
        simulated(image, out, labels=floats)
    smaller = stored(tmp_path / "smaller.zarr", np.ones((5, 150, 190), np.uint8))
    with pytest.raises(SourceError, match=r"labels have shape \(5, 150, 190\)"):
        simulated(image, out, labels=smaller)
    with pytest.raises(ConfigError, match="section 6"):
        simulate(image, str(out), seed=0, deformation=DeformationConfig(), damage=DamageConfig(missing=(6,)))
    assert not out.exists()


def test_a_volume_that_was_not_simulated_has_no_truth(image: str, tmp_path: Path) -> None:
    for url in (image, str(tmp_path / "absent.zarr")):
        with pytest.raises(SourceError, match="no simulated volume"):
            Truth.open(url)


def test_a_phantom_is_simulated_without_being_stored(tmp_path: Path) -> None:
    config = PhantomConfig(seed=2, shape=(2, 96, 112))
    result = simulate_phantom(
        config,
        str(tmp_path / "out.zarr"),
        seed=1,
        deformation=DeformationConfig.preset("none"),
        damage=DamageConfig(),
    )
    truth = Truth.open(result.url)
    chunk = generate(config, Box((0, 0, 0), (2, 96, 112)))
    assert np.array_equal(whole(result.url), chunk.image)
    assert np.array_equal(whole(truth.labels or ""), chunk.labels)
    assert truth.source == config
    assert truth.attributes["natural"] is True
    assert Volume.open(result.url).info.pixel_size == config.pixel_size


def test_uint16_sections_keep_their_dtype(tmp_path: Path) -> None:
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((2, 100, 100)), (0, 2, 2))
    image = stored(tmp_path / "image.zarr", (2000 + 5000 * noise).clip(1, 4095).astype(np.uint16))
    result = simulate(
        image,
        str(tmp_path / "out.zarr"),
        seed=0,
        deformation=DeformationConfig(),
        damage=DamageConfig(fraction=1.0, kinds=("crack",)),
    )
    observed = whole(result.url)
    assert observed.dtype == np.uint16
    assert 1000 < observed.max() < 6000
