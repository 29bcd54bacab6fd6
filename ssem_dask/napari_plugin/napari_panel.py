"""The panel of napari: opens a run, lists the places that need a look and goes there, and starts `ssem-dask fix`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ssem_dask.errors import SsemDaskError
from ssem_dask.napari_plugin.run_layers import MarkedPlace, RunView, read_run_view, warped_layers

_CANVAS_PX = 600.0
"""Part of the screen that a place should fill."""


class RunPanel(QWidget):  # type: ignore[misc]
    """A run in napari: its layers, its verdict, the places that need a look, and further volumes in its frame."""

    def __init__(self, napari_viewer: Any) -> None:
        """Make the panel of a viewer."""
        super().__init__()
        self.viewer = napari_viewer
        self.shown: RunView | None = None
        self._fixing: subprocess.Popen[bytes] | None = None
        self._worker: Any = None
        self.run = QLineEdit(placeholderText="run: OUT.zarr, or its URL")
        self.verdict = QLabel(wordWrap=True, textInteractionFlags=Qt.TextInteractionFlag.TextSelectableByMouse)
        self.places = QListWidget(wordWrap=True)
        self.volume = QLineEdit(placeholderText="another volume of the source's sections")
        self.volume_holds_labels = QCheckBox("labels")
        self.fix = QPushButton("Fix in the browser", enabled=False)
        self._warp = QPushButton("Show it aligned", enabled=False)
        self._arrange()
        self.run.returnPressed.connect(self.open_run)
        self.volume.returnPressed.connect(self.show_volume)
        self._warp.clicked.connect(self.show_volume)
        self.fix.clicked.connect(self.start_fix)
        self.places.itemActivated.connect(lambda item: self.go_to(item.data(Qt.ItemDataRole.UserRole)))
        self.places.itemClicked.connect(lambda item: self.go_to(item.data(Qt.ItemDataRole.UserRole)))
        self.viewer.dims.events.current_step.connect(self._name_section)

    @property
    def is_reading(self) -> bool:
        """Whether a run or a volume is being read."""
        return self._worker is not None

    def open_run(self) -> None:
        """Read the run that is named, in a thread, and show it in place of an earlier one."""
        self._read(lambda: read_run_view(self.run.text().strip()), self._show_run)

    def show_volume(self) -> None:
        """Add the volume that is named, warped as it is looked at."""
        if self.shown is None:
            return
        run, volume, labels = self.shown.url, self.volume.text().strip(), self.volume_holds_labels.isChecked()
        self._read(lambda: warped_layers(run, volume, labels=labels), self._add_layers)

    def go_to(self, place: MarkedPlace) -> None:
        """Show a place, in the middle and large enough."""
        if self.shown is None:
            return
        z, y, x = self.shown.world(place)
        self.viewer.dims.set_point(0, z)
        self.viewer.camera.center = (z, y, x)
        self.viewer.camera.zoom = _CANVAS_PX / (place.side * self.shown.pixel_size)

    def start_fix(self) -> None:
        """Start the page of `ssem-dask fix` in the browser; it ends with this panel."""
        if self.shown is None or (self._fixing is not None and self._fixing.poll() is None):
            return
        self._fixing = subprocess.Popen([sys.executable, "-m", "ssem_dask.cli", "fix", self.shown.url])
        self.verdict.setText(f"{self.shown.verdict}\nAfter a fix was applied, open the run again.")

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802  (Qt's name)
        """End what was started."""
        if self._fixing is not None and self._fixing.poll() is None:
            self._fixing.terminate()
            self._fixing.wait()
        self.viewer.dims.events.current_step.disconnect(self._name_section)
        super().closeEvent(event)

    def _arrange(self) -> None:
        choose, show = QPushButton("Choose…"), QPushButton("Open")
        choose.clicked.connect(self._choose)
        show.clicked.connect(self.open_run)
        box = QVBoxLayout(self)
        for row in (
            (self.run,),
            (choose, show),
            (self.verdict,),
            (self.places,),
            (self.fix,),
            (self.volume,),
            (self.volume_holds_labels, self._warp),
        ):
            line = QHBoxLayout()
            for widget in row:
                line.addWidget(widget)
            box.addLayout(line)

    def _choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Run", str(Path.cwd()))
        if folder:
            self.run.setText(folder)
            self.open_run()

    def _read(self, work: Callable[[], Any], show: Callable[[Any], None]) -> None:
        """Do work in a thread, then show what it returns, or the sentence of a mistake."""
        if self._worker is not None:
            return
        self.verdict.setText("Reading …")

        def finished_work() -> Callable[[], None]:
            try:
                found = work()
            except SsemDaskError as error:  # napari would show a traceback of what a thread raises
                mistake = str(error)
                return lambda: self._show_mistake(mistake)
            return lambda: show(found)

        self._worker = create_worker(finished_work)
        self._worker.returned.connect(self._ended)
        self._worker.errored.connect(lambda _: self._ended(lambda: None))
        self._worker.start()

    def _ended(self, then: Callable[[], None]) -> None:
        self._worker = None
        self.verdict.setText("" if self.shown is None else self.shown.verdict)
        then()

    def _show_mistake(self, sentence: str) -> None:
        self.verdict.setText(sentence)
        show_error(sentence)

    def _show_run(self, found: RunView) -> None:
        if self.shown is not None:
            names = {options["name"] for _, options, _ in self.shown.layers}
            for layer in [layer for layer in self.viewer.layers if layer.name in names]:
                self.viewer.layers.remove(layer)
        self.shown = found
        self._add_layers(found.layers)
        self.verdict.setText("\n".join([found.verdict, *found.missing]))
        self.places.clear()
        for place in (*found.spoilt, *found.worst):
            item = QListWidgetItem(place.title)
            item.setData(Qt.ItemDataRole.UserRole, place)
            self.places.addItem(item)
        self.fix.setEnabled(True)
        self._warp.setEnabled(True)
        self.viewer.scale_bar.visible = True
        self.viewer.text_overlay.visible = True
        self._name_section()

    def _add_layers(self, layers: list[Any]) -> None:
        for data, options, kind in layers:
            getattr(self.viewer, f"add_{kind}")(data, **options)

    def _name_section(self, _event: object = None) -> None:
        if self.shown is not None:
            z = round(self.viewer.dims.point[0] / self.shown.section_thickness)
            self.viewer.text_overlay.text = self.shown.section_label(z)
