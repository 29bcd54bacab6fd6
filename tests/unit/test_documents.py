"""Documents agree with the code and with each other."""

import re
from pathlib import Path
from typing import get_args

import pytest
from typer.models import OptionInfo

from ssem_dask.api.running import align
from ssem_dask.cli import options
from ssem_dask.runtime.clusters import open_cluster
from ssem_dask.runtime.clusters.cluster_config import CLUSTER_NAMES, OF_THIS_MACHINE, RESIZABLE, ClusterConfig
from tools.layer_figure import with_figure
from tools.run_documented_commands import commands_of

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


def test_marked_commands_are_found() -> None:
    text = """Text.

<!-- run -->

    .venv/bin/ssem-dask align a b   # a comment

    ssem-dask status b

    # Only a comment.

No command:

    ssem-dask view b
"""
    assert commands_of(text) == ["ssem-dask align a b", "ssem-dask status b"]


def test_the_site_has_every_page_of_the_documents() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"cli.md"} == {name for name in listed if "/" not in name}


def test_every_decision_has_a_status_and_is_in_the_index() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    for path in DECISIONS:
        heading = re.fullmatch(r"# (\d{4}) (.+)", path.read_text().split("\n", 1)[0])
        assert heading is not None, path.name
        number, title = heading.groups()
        assert "*Status: " in path.read_text(), path.name
        assert f"| [{number}]({path.name}) | {title} |" in index, path.name
    assert [path.name[:4] for path in DECISIONS] == [f"{n + 1:04d}" for n in range(len(DECISIONS))]


def new_things() -> list[str]:
    """Return the rows of the table of architecture.md that says where a new thing goes."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = [line for line in text[text.index("## Where does") :].splitlines() if line.startswith("| ")]
    return rows[1:]  # without the heading


@pytest.mark.parametrize("row", new_things(), ids=lambda row: row.split("|")[1].strip())
def test_the_places_for_a_new_thing_exist(row: str) -> None:
    words = re.findall(r"`([^`]+)`", row)
    paths = [ROOT / word for word in words if "/" in word]
    assert paths
    assert [path for path in paths if not path.exists()] == []
    modules = [module for path in paths for module in (path.rglob("*.py") if path.is_dir() else [path])]
    code = "\n".join(module.read_text() for module in modules if module.suffix == ".py")
    identifiers = [word for word in words if re.fullmatch(r"\w+", word)]
    defined = r"^(?:class |def )?{}\b(?:\[\w+\])?(?:\(|:| =)"
    assert [name for name in identifiers if not re.search(defined.format(name), code, re.MULTILINE)] == []
    targets = [word.removeprefix("make ") for word in words if word.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if not re.search(f"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("name", CLUSTER_NAMES)
def test_help_texts_name_every_kind_of_cluster(name: str) -> None:
    (option,) = [item for item in get_args(options.Cluster) if isinstance(item, OptionInfo)]
    texts = (option.help, align.__doc__, open_cluster.__doc__, ClusterConfig.model_fields["name"].description)
    assert [text for text in texts if name not in re.findall(r"[\w-]+", text or "")] == []


def test_the_groups_of_clusters_are_of_known_kinds() -> None:
    assert {*OF_THIS_MACHINE, *RESIZABLE} <= set(CLUSTER_NAMES)
