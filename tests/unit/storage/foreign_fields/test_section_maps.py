"""Fields of other tools, whatever their form, map points as `points` does, and become starts and references."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssem_dask
from ssem_dask.errors import ConfigError, SourceError
from ssem_dask.evaluation.candidates import foreign_candidate
from ssem_dask.field.grid import Grid
from ssem_dask.stages.compose.anchors import resolve_compose
from ssem_dask.stages.configs import ComposeStageConfig
from ssem_dask.storage.affine_file import read_affine_file
from ssem_dask.storage.foreign_fields.section_maps import open_section_maps, read_initial_affines
from ssem_dask.storage.volume import VolumeInfo
from tests.support.field_runs import (
    MIRRORED,
    PIXEL_NM,
    SHAPE,
    SMOOTH,
    SPACING,
    THICKNESS_NM,
    TURNED,
    UNKNOWN,
    make_field_run,
    positions,
)

INFO = VolumeInfo(shape=SHAPE, dtype=np.dtype("uint8"), pixel_size=PIXEL_NM, section_thickness=THICKNESS_NM)


def export(run: str, out: Path, form: Any) -> str:
    assert ssem_dask.export_volume(run, str(out), form=form, cluster="serial").state == "complete"
    return str(out)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URL of the same fields in each form."""
    folder = tmp_path_factory.mktemp("forms")
    run = make_field_run(folder)
    return {
        "run": run,
        "array": f"{run}/fields/section",
        "scene": export(run, folder / "scene.zarr", "fields"),
        "itk": export(run, folder / "itk", "itk"),
        "csv": export(run, folder / "affines", "affines") + "/affines.csv",
    }


@pytest.mark.parametrize("form", ["run", "array", "scene", "itk"])
def test_they_map_points_as_points_does(forms: dict[str, str], form: str) -> None:
    maps = open_section_maps(forms[form], info=INFO)
    alignment = ssem_dask.open_alignment(forms["run"])
    points = positions(seed=8)
    wanted = alignment.map_points(points, to="source")[:, 1:]
    for z in (SMOOTH, TURNED, MIRRORED):
        here = points[:, 0] == z
        np.testing.assert_allclose(maps.source_positions(z, points[here, 1:]), wanted[here], atol=1e-3)
    if form in ("run", "array"):
        assert np.isnan(maps.source_positions(UNKNOWN, points[:5, 1:])).all()


@pytest.mark.parametrize("form", ["run", "scene", "itk"])
def test_the_affine_maps_are_a_start_for_another_run(forms: dict[str, str], form: str) -> None:
    fitted = read_initial_affines(forms[form], info=INFO, digest=None)
    exported = read_affine_file(forms["csv"], sections=SHAPE[0], digest=None).affines
    corners = np.array([[y, x, 1] for y in (30, SHAPE[1] - 30) for x in (30, SHAPE[2] - 30)])
    for z in (SMOOTH, TURNED, MIRRORED):
        assert np.abs((fitted.affines[z] - exported[z]) @ corners.T).max() < 2.0
    again = read_initial_affines(forms[form], info=INFO, digest=fitted.digest)
    np.testing.assert_array_equal(again.affines, fitted.affines)
    with pytest.raises(ConfigError, match="they changed after the run was planned"):
        read_initial_affines(forms[form], info=INFO, digest="0" * 64)


@pytest.mark.parametrize("form", ["run", "scene", "itk"])
def test_they_are_anchors(forms: dict[str, str], form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssem_dask.stages.compose.anchors.LEAST_SECTIONS", 3)
    config = ComposeStageConfig.model_validate({"reference": {"fields": forms[form]}})
    resolved = resolve_compose(config, INFO)
    assert len(resolved.reference.digest or "") == 64


def test_a_candidate_of_an_evaluation(forms: dict[str, str]) -> None:
    candidate = foreign_candidate(open_section_maps(forms["scene"], info=INFO), "theirs")
    grid = Grid.of_section(SHAPE[1:], spacing=SPACING)
    field = ssem_dask.open_alignment(forms["run"]).field(TURNED)
    np.testing.assert_allclose(candidate.displacements(TURNED, grid).numpy(), field, atol=1e-3)


def test_mistakes_are_one_sentence(forms: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no fields are there"):
        open_section_maps(str(tmp_path / "nothing"), info=INFO)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("")
    with pytest.raises(SourceError, match=r"holds no \*.nrrd files"):
        open_section_maps(str(tmp_path / "empty"), info=INFO)
    few = VolumeInfo(shape=(2, *SHAPE[1:]), dtype=INFO.dtype, pixel_size=PIXEL_NM, section_thickness=THICKNESS_NM)
    with pytest.raises(SourceError, match="has a file for section 2"):
        open_section_maps(forms["itk"], info=few)
    with pytest.raises(SourceError, match="one field for each of the volume's 2 sections"):
        open_section_maps(forms["run"], info=few)


def test_a_scene_that_leaves_its_sections_is_refused(forms: dict[str, str], tmp_path: Path) -> None:
    end = {"name": "physical"}
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    for shift, refused in (([THICKNESS_NM, 4.6, 0.0], True), ([0.0, 4.6, 0.0], False)):
        transformation = {"type": "translation", "translation": shift, "input": {"name": "from"}, "output": end}
        systems = [{"name": name, "axes": axes} for name in ("from", "physical")]
        scene = {"coordinateSystems": systems, "coordinateTransformations": [transformation]}
        document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.6", "scene": scene}}}
        (tmp_path / "zarr.json").write_text(json.dumps(document))
        maps = open_section_maps(str(tmp_path), info=INFO)
        if refused:
            with pytest.raises(SourceError, match="moves points of section 1 by up to 1 sections along z"):
                maps.source_positions(1, np.array([[5.0, 6.0]]))
        else:
            np.testing.assert_allclose(maps.source_positions(1, np.array([[5.0, 6.0]])), [[6.0, 6.0]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((b"NRRD0005", b"MINC0005"), "not that of NRRD"),
        ((b"vector domain", b"domain domain"), "no 2D vectors"),
        ((b"(0,36.8)", b"(1,36.8)"), "rotated or mirrored"),
        ((b"encoding: gzip", b"encoding: bz2"), "bz2 is not raw or gzip"),
        ((b"sizes: 2", b"sizes: 2 9"), "sizes"),
    ],
)
def test_a_malformed_file_is_one_sentence(
    forms: dict[str, str], tmp_path: Path, change: tuple[bytes, bytes], sentence: str
) -> None:
    content = (Path(forms["itk"]) / "to_source" / "section-00000.nrrd").read_bytes()
    assert change[0] in content, content[:400]
    (tmp_path / "a-0.nrrd").write_bytes(content.replace(*change, 1))
    with pytest.raises(SourceError, match=sentence):
        open_section_maps(str(tmp_path), info=INFO).source_positions(0, np.zeros((1, 2)))
