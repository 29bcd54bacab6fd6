"""The borders of slabs: what is accepted, and the sentence for what is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.config.resolve import resolve
from ssem_dask.config.schema import SlabsConfig, make_config
from ssem_dask.config.slab_borders import slab_borders
from ssem_dask.errors import ConfigError, SourceError
from tests.support.fixed_runs import write_stack


def test_borders_beyond_the_last_section_are_those_of_sections_to_come() -> None:
    found, (line,) = slab_borders(SlabsConfig(borders=(20, 40, 60)), sections=50)
    assert found == (20, 40)
    assert line == "Slabs begin at section 0, 20, 40; not reached yet by the 50 sections: 60."
    assert slab_borders(SlabsConfig(), sections=50) == ((), [])


def test_borders_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "slabs.txt"
    path.write_text("# first sections\n20\n\n40  # the second\n")
    assert slab_borders(SlabsConfig(file=str(path)), sections=50)[0] == (20, 40)


@pytest.mark.parametrize("borders", [(20, 20), (40, 20)])
def test_borders_must_increase(borders: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\[slabs\] borders: 20 does not follow; wanted is the first section of"):
        slab_borders(SlabsConfig(borders=borders), sections=50)


@pytest.mark.parametrize("text", ["twenty\n", "20 40\n", "\xff"])
def test_a_file_has_one_number_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "slabs.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="wanted is a text file with the number of one section a line"):
        slab_borders(SlabsConfig(file=str(path)), sections=50)
    with pytest.raises(SourceError, match=r"none\.txt"):
        slab_borders(SlabsConfig(file=str(tmp_path / "none.txt")), sections=50)
    with pytest.raises(ConfigError, match="leave one of them out"):
        slab_borders(SlabsConfig(file=str(path), borders=(20,)), sections=50)


@pytest.mark.parametrize("value", [0, -3, "twenty", 2.5])
def test_a_border_is_the_number_of_a_section(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[slabs\.borders\] 0"):
        make_config({"source": "a", "output": "b", "slabs": {"borders": [value]}})


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    source = write_stack(
        tmp_path / "source.zarr", np.full((24, 64, 64), 100, dtype=np.uint8) + np.arange(64, dtype=np.uint8)
    )
    return {"source": source, "output": str(tmp_path / "run.zarr")}


def test_they_decide_results_and_nothing_changes_without_them(settings: dict[str, Any]) -> None:
    plain, _ = resolve(make_config(settings), source_identity="a")
    ahead, _ = resolve(make_config({**settings, "slabs": {"borders": [24]}}), source_identity="a")
    assert ahead.digests == plain.digests
    job, choices = resolve(make_config({**settings, "slabs": {"borders": [12]}}), source_identity="a")
    assert job.slabs == (12,)
    assert "Slabs begin at section 0, 12." in choices
    assert job.digests["coarse"] != plain.digests["coarse"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"compose": {"method": "chain"}}, r'\[compose\] method = "chain"'),
        ({"compose": {"far": {"distances": [8]}}}, r"\[compose\.far\]"),
    ],
)
def test_they_need_statistics_along_z(settings: dict[str, Any], other: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        resolve(make_config({**settings, "slabs": {"borders": [12]}, **other}))
