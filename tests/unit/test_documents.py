"""Documents agree with the code and with each other."""

import re
from pathlib import Path

import pytest

from tools.layer_figure import with_figure

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_the_figure_of_layers_is_that_of_the_import_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    document = (ROOT / "docs" / "architecture.md").read_text()
    assert with_figure(document) == document, "run `make docs`"


def test_the_description_of_the_folders_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index("## The folders") : text.index("## Where does")]
    described = {word for paragraph in section.split("\n- ")[1:] for word in re.findall(r"`([a-z_]+)`", paragraph)}
    parts = {part for path in (ROOT / "ssem_dask").rglob("*.py") for part in (*path.parts, path.stem)}
    assert described - parts - {"tests", "benchmarks", "tools"} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_named_paths_exist(path: Path) -> None:
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    named = re.findall(r"`((?:ssem_dask|tests|benchmarks|tools|docs|deploy)/[\w/.-]*[\w/])", text)
    assert [name for name in named if not any((ROOT / f"{name}{suffix}").exists() for suffix in ("", ".py"))] == []


def test_every_decision_has_a_status_and_is_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for path in DECISIONS:
        heading = re.fullmatch(r"# (\d{4}) (.+)", path.read_text().split("\n", 1)[0])
        assert heading is not None, path.name
        number, title = heading.groups()
        assert "*Status: " in path.read_text(), path.name
        assert f"| [{number}]({path.name}) | {title} |" in index, path.name
    assert [path.name[:4] for path in DECISIONS] == [f"{n + 1:04d}" for n in range(len(DECISIONS))]
