"""The notebook of the documents runs: arrays in, picture out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell after cell in one name space, as a kernel does, without one."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # documents hold no pixels
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name} {cell['id']}", "exec"), names)
    assert names["summary"].state == "complete"
    assert names["after"] > names["before"] + 0.1
    assert "data:image/png" in names["alignment"]._repr_html_()
    assert np.abs(names["back"] - names["points"]).max() < 0.01
    assert set(np.unique(names["warped"].compute())) <= {0, 7}
    assert np.abs(names["median"] - (names["true_shifts"][5] - names["true_shifts"][6])).max() < 0.5
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "fields.zarr" / "zarr.json").exists()
