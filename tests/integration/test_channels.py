"""A source with channels, from its file to the aligned volume, and on to warp, view, verify and export."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import ssem_dask
from ssem_dask.geometry.box import Box
from ssem_dask.report.viewer.site import make_site
from ssem_dask.storage.arrays import group_attributes
from ssem_dask.storage.volume import Volume
from tests.support.cli import ssem_dask as command
from tests.support.runs import SMALL, simulate_small, to_toml

NAMES = ("SE2", "BSD")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Channel SE2 is noise, from which nothing can be aligned; BSD has the sections."""
    folder = tmp_path_factory.mktemp("channels")
    sections = Volume.open(simulate_small(folder / "one.zarr"))
    bsd = sections.read(Box((0, 0, 0), sections.info.shape))
    se2 = np.random.default_rng(0).integers(0, 255, bsd.shape).astype("uint8")
    metadata = {
        "axes": "ZCYX",
        "PhysicalSizeX": 5,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 5,
        "PhysicalSizeYUnit": "nm",
        "PhysicalSizeZ": 40,
        "PhysicalSizeZUnit": "nm",
        "Channel": {"Name": NAMES},
    }
    tifffile.imwrite(folder / "two.ome.tif", np.stack([se2, bsd], axis=1), ome=True, metadata=metadata)
    words = ("import", str(folder / "two.ome.tif"), str(folder / "two.zarr"), "--channels", "all", "--channel", "bsd")
    ended = command(*words, "--json")
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)
    assert (shown["channels"], shown["register"]) == ([*NAMES], 1)
    return folder


@pytest.fixture(scope="module")
def aligned(imported: Path) -> Path:
    tree = {"source": str(imported / "two.zarr"), "output": str(imported / "run.zarr"), **SMALL}
    (imported / "run.toml").write_text(to_toml(tree))
    ended = command("run", str(imported / "run.toml"), "--cluster", "serial")
    assert ended.returncode == 0, ended.stderr
    return imported


def test_all_channels_are_imported_with_their_names(imported: Path) -> None:
    volume = Volume.open(str(imported / "two.zarr"))
    assert (volume.info.channels, volume.info.channel) == (NAMES, 1)
    stored = np.moveaxis(tifffile.imread(imported / "two.ome.tif"), 1, 0)
    np.testing.assert_array_equal(volume.read_channels(Box((0, 0, 0), volume.info.shape)), stored)
    ome = (group_attributes(volume.url) or {})["ome"]
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "z", "y", "x"]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == [*NAMES]


def test_one_channel_is_registered_and_all_are_warped_alike(aligned: Path) -> None:
    """Each channel is what warping it alone gives, and the fields are those of channel BSD alone."""
    result = Volume.open(str(aligned / "run.zarr" / "aligned"))
    assert (result.info.channels, result.info.channel) == (NAMES, 1)
    for number, name in enumerate(NAMES):
        alone = aligned / f"{name}.zarr"
        ssem_dask.import_volume(str(aligned / "two.ome.tif"), str(alone), channel=number)
        target = aligned / f"{name}-warped.zarr"
        ssem_dask.warp_volume(str(aligned / "run.zarr"), str(alone), str(target), cluster="serial")
        warped, channel = Volume.open(str(target)), result.each_channel[number]
        assert warped.info.channels == ()
        for mip in result.mips:
            box = Box((0, 0, 0), result.shape_at(mip), mip)
            np.testing.assert_array_equal(channel.read(box), warped.read(box))
    ssem_dask.align(str(aligned / "BSD.zarr"), str(aligned / "alone.zarr"), cluster="serial", **SMALL)
    both, one = (ssem_dask.open_alignment(str(aligned / name)).fields() for name in ("run.zarr", "alone.zarr"))
    np.testing.assert_array_equal(both, one)
    assert Volume.open(str(aligned / "alone.zarr" / "aligned")).info.channels == ()


def test_a_volume_with_channels_is_warped_as_a_whole(aligned: Path) -> None:
    target = aligned / "both-warped.zarr"
    words = ("warp", str(aligned / "run.zarr"), str(aligned / "two.zarr"), str(target), "--cluster", "serial")
    assert command(*words).returncode == 0
    one, two = Volume.open(str(target)), Volume.open(str(aligned / "run.zarr" / "aligned"))
    for mip in two.mips:
        box = Box((0, 0, 0), two.shape_at(mip), mip)
        np.testing.assert_array_equal(one.read_channels(box), two.read_channels(box))


def test_every_command_reads_a_run_with_channels(aligned: Path) -> None:
    run = str(aligned / "run.zarr")
    assert command("status", run).returncode == 0
    assert command("verify", run, "--cluster", "serial").returncode == 0
    assert command("report", run).returncode == 0
    assert command("plan", str(aligned / "run.toml"), "--cluster", "serial").returncode == 0
    site, missing = make_site(run, labels=None, worst=3)
    assert missing == []
    layers = site.state("http://127.0.0.1", None)["layers"]
    assert [layer["name"] for layer in layers[:5]] == [
        "source, SE2",
        "source, BSD",
        "coarse-aligned",
        "aligned, SE2",
        "aligned, BSD",
    ]
    assert len(site.files["aligned-0"].read("0/c/0/0/0", start=0, stop=1 << 20)) == 256 * 256


def test_a_damaged_channel_is_found_and_written_again(aligned: Path) -> None:
    run = aligned / "run.zarr"
    shard = next((run / "aligned" / "0" / "c" / "0").rglob("0"))
    shard = shard if shard.is_file() else next(path for path in shard.rglob("*") if path.is_file())
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert command("verify", str(run), "--cluster", "serial").returncode == 1
    assert command("run", str(aligned / "run.toml"), "--cluster", "serial").returncode == 0
    assert shard.read_bytes() == content


@pytest.mark.parametrize("form", [("--ngff", "0.4"), ("--precomputed",)])
def test_exports_have_all_channels(aligned: Path, form: tuple[str, ...]) -> None:
    target = aligned / f"export{form[0]}"
    assert command("export", str(aligned / "run.zarr"), str(target), *form, "--cluster", "serial").returncode == 0
    result = Volume.open(str(aligned / "run.zarr" / "aligned"))
    for number, channel in enumerate(result.each_channel):
        back = aligned / f"back{form[0]}-{number}.zarr"
        ssem_dask.import_volume(str(target), str(back), channel=number)
        box = Box((0, 0, 0), result.info.shape)
        np.testing.assert_array_equal(Volume.open(str(back)).read(box), channel.read(box))


def test_the_channel_must_be_known(imported: Path) -> None:
    source, undecided = str(imported / "two.ome.tif"), str(imported / "undecided.zarr")
    both = "0 (SE2), 1 (BSD)"
    ended = command("import", source, undecided, "--channels", "all")
    assert ended.returncode == 0
    assert f"has 2 channels: {both}; choose the one to align by" in " ".join(ended.stderr.split())
    for words in (
        ("align", undecided, str(imported / "o.zarr")),
        ("align", undecided, str(imported / "o.zarr"), "--channel", "2"),
        ("import", source, str(imported / "x.zarr")),
        ("import", source, str(imported / "x.zarr"), "--channels", "0,0"),
        ("import", source, str(imported / "x.zarr"), "--channels", "SE2,BSE"),
        ("align", str(imported / "one.zarr"), str(imported / "o.zarr"), "--channel", "1"),
    ):
        refused = command(*words)
        assert refused.returncode == 2, words
        assert "--channel" in refused.stderr, words
        assert "Traceback" not in refused.stderr
    assert not (imported / "o.zarr").exists()
    planned = command("plan", undecided, str(imported / "o.zarr"), "--channel", "BSD")
    assert planned.returncode == 0
    assert "Channel 1 (BSD) of 2 is registered" in planned.stderr
