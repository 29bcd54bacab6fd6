"""Whatever two places are called, they are known to overlap if one is in the other."""

from pathlib import Path

import pytest

from ssem_dask.errors import OutputError
from ssem_dask.storage import location, places
from ssem_dask.storage.places import Relation, refuse_overlap, relation


@pytest.mark.parametrize(
    ("place", "other", "expected"),
    [
        ("a.zarr", "a.zarr/", Relation.SAME),
        ("a.zarr", "./b/../a.zarr", Relation.SAME),
        ("a.zarr", "a.zarr/0", Relation.AROUND),
        ("a.zarr/labels/0", "a.zarr", Relation.INSIDE),
        ("a.zarr", "a.zarrs", None),
        ("a.zarr", "A.zarr", None),
        ("memory://a", "memory://a/b", Relation.AROUND),
        ("s3://bucket/a", "s3a://bucket//a/", Relation.SAME),
        ("s3://bucket//x/y", "s3://Bucket/x", Relation.INSIDE),
        ("s3://bucket/X", "s3://bucket/x", None),
        ("s3://bucket/x", "gs://bucket/x", None),
        ("s3://bucket", "s3://bucket/x", Relation.AROUND),
        ("gs://bucket/x/../y", "precomputed://gs://bucket/y/0", Relation.AROUND),
        ("https://host/a?signature=1", "https://host/a/0", Relation.AROUND),
        ("a.zip", "zip://inside/0::a.zip", Relation.SAME),
        (".", "simplecache::s3://bucket/a", None),
        ("s3://bucket/a", "simplecache::s3://bucket/a/0", Relation.AROUND),
    ],
)
def test_relation(
    place: str, other: str, expected: Relation | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opposite = {Relation.AROUND: Relation.INSIDE, Relation.INSIDE: Relation.AROUND}
    assert relation(place, other) is expected
    assert relation(other, place) is (None if expected is None else opposite.get(expected, expected))


def test_names_of_local_places(tmp_path: Path) -> None:
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "deep").symlink_to(folder / "0")
    for name in (str(folder), f"file://{folder}", f"FILE://{folder}", f"{tmp_path}//link/", f"{folder}/0/.."):
        assert relation(name, str(folder)) is Relation.SAME
        assert relation(name, str(tmp_path / "deep" / "new")) is Relation.AROUND
    assert relation(str(folder), str(tmp_path / "other")) is None


def test_what_is_read_of_a_source(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for z in range(2):
        (images / f"{z}.tif").touch()
    (images / "elsewhere.tif").symlink_to(tmp_path / "x.zarr" / "z.tif")
    for source in (images, images / "*.tif"):
        refuse_overlap(str(images / "volume.zarr"), {"the source": str(source)})  # beside the images
        for destination in (tmp_path, images / "1.tif", tmp_path / "x.zarr"):
            with pytest.raises(OutputError, match="the source"):
                refuse_overlap(str(destination), {"the source": str(source)})
    with pytest.raises(OutputError, match="the source itself"):
        refuse_overlap(str(images), {"the source": f"{images}/."})
    with pytest.raises(OutputError, match=r"the labels .* is inside it"):
        refuse_overlap(str(tmp_path / "x.zarr"), {"the labels": f"{tmp_path}/x.zarr/file.h5:/a/b", "nothing": None})


def test_remains_of_a_start_occupy_nothing(tmp_path: Path) -> None:
    assert not places.is_occupied(str(tmp_path / "new"))
    assert not places.is_occupied(str(tmp_path))
    location.write_bytes(str(tmp_path / "ledger" / "drivers.lease" / "00000001"), b"{}")
    assert not places.is_occupied(str(tmp_path))
    (tmp_path / "ledger" / "render").mkdir()
    assert not places.is_occupied(str(tmp_path))
    location.write_bytes(str(tmp_path / "ledger" / "render" / "a.json"), b"{}")
    assert places.is_occupied(str(tmp_path))
    (tmp_path / "file").touch()
    assert places.is_occupied(str(tmp_path / "file"))
