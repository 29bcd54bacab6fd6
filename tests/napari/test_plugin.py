"""napari finds the plugin, opens a run by it, and its panel leads to the places that need a look."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssem_dask.storage.volume import Volume
from tests.support.fabricated_run import Fabricated

Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def panel(viewer: Any) -> Any:
    """The panel, opened as from the menu of plugins."""
    viewer.layers.clear()
    return viewer.window.add_plugin_dock_widget("ssem_dask", "Alignment of sections")[1]


def open_run(panel: Any, run: str, wait: Wait) -> None:
    panel.run.setText(run)
    panel.open_run()
    wait(lambda: not panel.is_reading)


def test_napari_finds_the_plugin(viewer: Any) -> None:
    import npe2

    manager = npe2.PluginManager.instance()
    commands = manager.get_manifest("ssem_dask").contributions.commands
    assert commands
    assert all(callable(manager.commands.get(command.id)) for command in commands)


def test_a_run_opens_by_its_path(viewer: Any, made: Fabricated) -> None:
    viewer.layers.clear()
    layers = viewer.open(made.url, plugin="ssem_dask")
    aligned = viewer.layers["aligned"]
    assert aligned.multiscale
    np.testing.assert_allclose(aligned.scale, (40, 2.5, 2.5))
    assert {str(unit) for layer in layers for unit in layer.units} == {"nanometer"}
    z = made.bad[0]
    viewer.dims.set_point(0, z * 40.0)
    corner = aligned.world_to_data((z * 40.0, 0.0, 0.0))
    np.testing.assert_array_equal(corner, (z, 0, 0))
    stored = Volume.open(f"{made.url}/aligned")
    shown, whole = aligned._slice.image.raw, stored.shape_at(aligned.data_level)
    assert shown.ndim == 2  # the part of the section in the window, at a level that suits it
    assert all(0 < n <= extent for n, extent in zip(shown.shape, whole[1:], strict=True))


def test_a_mistake_is_a_sentence(panel: Any, tmp_path: Path, wait: Wait) -> None:
    open_run(panel, str(tmp_path / "none.zarr"), wait)
    assert panel.verdict.text().startswith(f"{tmp_path}/none.zarr: ")
    assert panel.shown is None
    assert not panel.fix.isEnabled()


def test_the_panel_lists_places_and_goes_there(panel: Any, viewer: Any, made: Fabricated, wait: Wait) -> None:
    open_run(panel, made.url, wait)
    assert "1 of 8 sections needs a look: 5 (S006.tif) fold" in panel.verdict.text()
    titles = [panel.places.item(row).text() for row in range(panel.places.count())]
    assert titles[0] == "section 5 (S006.tif) fold"
    row = next(i for i, title in enumerate(titles) if title.startswith(f"section {made.bad[0]}: Similarity"))
    panel.places.itemActivated.emit(panel.places.item(row))
    assert round(viewer.dims.point[0] / 40) == made.bad[0]
    assert viewer.text_overlay.text == f"section {made.bad[0]}"
    before = viewer.screenshot(canvas_only=True, flash=False)
    assert before[..., :3].std() > 10  # noise, not an empty canvas
    panel.places.itemActivated.emit(panel.places.item(0))
    assert round(viewer.dims.point[0] / 40) == 5
    count = len(viewer.layers)
    open_run(panel, made.url, wait)  # as after a fix
    assert len(viewer.layers) == count


def test_another_volume_is_warped(panel: Any, viewer: Any, made: Fabricated, tmp_path: Path, wait: Wait) -> None:
    assert panel.shown is not None
    panel.volume.setText(str(tmp_path / "none.zarr"))
    panel.show_volume()
    wait(lambda: not panel.is_reading)
    assert "none.zarr" in panel.verdict.text()
    panel.volume.setText(Volume.open(f"{made.url}/aligned").url)
    panel.show_volume()
    wait(lambda: not panel.is_reading)
    assert viewer.layers["warped, aligned"].multiscale


def test_fix_is_the_command(panel: Any, made: Fabricated, monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[list[str]] = []
    started = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        words.append(command)
        return started([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    panel.start_fix()
    panel.start_fix()  # it runs already
    assert words == [[sys.executable, "-m", "ssem_dask.cli", "fix", made.url]]
    panel.close()
