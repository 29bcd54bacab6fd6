"""Quality tables: what is written comes back by name, and what was not written is unknown."""

from pathlib import Path

import numpy as np
import pytest

from ssem_dask.errors import PlanError, SourceError
from ssem_dask.geometry.box import Box
from ssem_dask.storage import quality
from ssem_dask.storage.arrays import create_array, open_array
from ssem_dask.storage.quality import (
    BLOCK,
    SECTION_COLUMNS,
    WINDOW_COLUMNS,
    QualityInfo,
    quality_attributes,
    window_boxes,
)
from ssem_dask.storage.run_group import create_run

INFO = QualityInfo(
    shape_mip0=(40, 300, 500), window=(128, 256), probe=Box((0, 10, 20), (40, 60, 90), 1), similarity_mip=2
)


def create_tables(url: str) -> None:
    z, columns, windows = INFO.shape_mip0[0], len(SECTION_COLUMNS), len(WINDOW_COLUMNS)
    layouts = {
        "sections": ((z, columns), (BLOCK, columns), ("z", "column"), "float32", SECTION_COLUMNS),
        "windows": (
            (windows, z, *INFO.windows),
            (windows, BLOCK, *INFO.windows),
            ("column", "z", "y", "x"),
            "float32",
            WINDOW_COLUMNS,
        ),
        **{
            f"reslice/{cut}_{time}": ((z, pixels), (BLOCK, pixels), ("z", cut[0]), "uint16", {})
            for cut, pixels in (("xz", 70), ("yz", 50))
            for time in ("before", "after")
        },
    }
    for name, (shape, chunk, axes, dtype, described) in layouts.items():
        create_array(
            f"{url}/quality/{name}",
            shape=shape,
            chunks=chunk,
            axes=axes,
            dtype=dtype,
            shards=None,
            fill_value=np.nan if dtype == "float32" else 0,
            attributes=quality_attributes(INFO, described),
        )


@pytest.fixture
def run(tmp_path: Path) -> str:
    url = str(tmp_path / "out.zarr")
    create_run(url, attributes={"state": "running"})
    create_tables(url)
    return url


def test_the_tables_say_what_they_are_about(run: str) -> None:
    assert quality.has_quality(run)
    assert quality.read_info(run) == INFO
    assert INFO.windows == (3, 2)
    assert [box.stop[1:] for box in window_boxes(INFO)][-1] == (300, 500)


def test_rows_come_back_and_the_others_are_unknown(run: str) -> None:
    quality.write_sections(run, start=BLOCK, values={"ncc": np.arange(BLOCK) / 10.0})
    columns = quality.read_sections(run)
    np.testing.assert_allclose(columns["ncc"][BLOCK : 2 * BLOCK], np.arange(BLOCK) / 10.0, rtol=1e-6)
    assert np.isnan(columns["ncc"][:BLOCK]).all()
    assert np.isnan(columns["cpc"]).all()


def test_windows_come_back_by_column(run: str) -> None:
    rows = np.random.default_rng(0).random((8, *INFO.windows)).astype(np.float32)
    quality.write_windows(run, start=2 * BLOCK, values={"motion": rows})
    np.testing.assert_array_equal(quality.read_window_column(run, "motion")[2 * BLOCK : 3 * BLOCK], rows)
    assert np.isnan(quality.read_window_column(run, "motion")[: 2 * BLOCK]).all()
    assert np.isnan(quality.read_window_column(run, "confidence")).all()
    assert np.isnan(quality.read_window_column(run, "of a later version")).all()


def test_values_without_a_column_are_refused(run: str) -> None:
    with pytest.raises(PlanError, match=r"but not a column of storage\.quality: brightness"):
        quality.write_sections(run, start=0, values={"ncc": np.zeros(BLOCK), "brightness": np.zeros(BLOCK)})
    with pytest.raises(PlanError, match=r"but not a column of storage\.quality: ncc"):
        quality.write_windows(run, start=0, values={"ncc": np.zeros((BLOCK, *INFO.windows))})


def test_cuts_come_back(run: str) -> None:
    rows = np.random.default_rng(0).integers(0, 60000, (BLOCK, 70)).astype(np.uint16)
    quality.write_reslice(run, start=0, cut="xz", time="after", pixels=rows)
    np.testing.assert_array_equal(quality.read_reslice(run, cut="xz", time="after")[:BLOCK], rows)
    assert not quality.read_reslice(run, cut="xz", time="before").any()


def test_a_run_without_tables(tmp_path: Path) -> None:
    assert not quality.has_quality(str(tmp_path / "none.zarr"))
    with pytest.raises(SourceError, match=r"none\.zarr"):
        quality.read_sections(str(tmp_path / "none.zarr"))


def test_a_table_that_does_not_say_what_it_is_about(run: str) -> None:
    array = open_array(f"{run}/quality/windows", mode="r+")
    del array.attrs["window"]
    with pytest.raises(SourceError, match="run the stage measure again"):
        quality.read_info(run)
