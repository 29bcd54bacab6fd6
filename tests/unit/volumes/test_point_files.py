"""`points` of skeletons and meshes: SWC, precomputed skeletons, PLY, in px, nm and µm, both ways."""

import gzip
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
import pytest
import tensorstore

import ssem_dask
from ssem_dask.errors import SsemDaskError
from ssem_dask.storage.points.skeleton_folder import joined_edges
from tests.support.cli import assert_one_sentence
from tests.support.cli import ssem_dask as command
from tests.support.field_runs import PARTIAL, PIXEL_NM, SHAPE, THICKNESS_NM, UNKNOWN, make_field_run

pytestmark = pytest.mark.slow

UNITS = {"px": (1.0, 1.0), "nm": (THICKNESS_NM, PIXEL_NM), "um": (THICKNESS_NM / 1000, PIXEL_NM / 1000)}
INTEGER_PLY = """ply
format ascii 1.0
element vertex 1
property int x
property int y
property int z
end_header
1 1 1
"""
MIDDLE = (80.0, 45.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_field_run(tmp_path_factory.mktemp("points"))


def chain(*, count: int = 60, sections: int = UNKNOWN) -> Any:
    """Points (z, y, x), px, one after the other through the sections."""
    random = np.random.default_rng(3)
    depths = np.linspace(0, sections - 1e-2, count)
    return np.column_stack([depths, random.uniform(60, 100, count), random.uniform(36, 48, count)])


def expected(run: str, points: Any, *, to: str) -> Any:
    """Points as `Alignment.map_points` maps them; z stays."""
    mapped = ssem_dask.open_alignment(run).map_points(np.column_stack([np.floor(points[:, 0]), points[:, 1:]]), to=to)
    return np.column_stack([points[:, 0], mapped[:, 1:]])


def in_unit(points: Any, unit: str) -> Any:
    thickness, pixel = UNITS[unit]
    return points * [thickness, pixel, pixel]


def swc(points: Any) -> str:
    lines = ["# made by hand", "# scale 1 1 1"]
    for i, (z, y, x) in enumerate(points.tolist()):
        lines.append(f"{i + 1} {2 + i % 3} {x:.9g} {y:.9g} {z:.9g} 0.5 {i or -1} further")
    return "\n".join(lines) + "\n"


def swc_points(text: str) -> Any:
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return np.array([[float(row[4]), float(row[3]), float(row[2])] for row in rows])


@pytest.mark.parametrize("unit", UNITS)
def test_swc_in_each_unit(run: str, tmp_path: Path, unit: str) -> None:
    points = chain()
    file, out, back = (tmp_path / name for name in ("n.swc", "moved.swc", "back.swc"))
    file.write_text(swc(in_unit(points, unit)))
    shown = command("points", run, str(file), str(out), "--unit", unit, "--to", "source")
    assert shown.returncode == 0, shown.stderr
    assert "1 file, 60 points" in shown.stdout
    moved = swc_points(out.read_text()) / in_unit(np.ones((1, 3)), unit)
    wanted = expected(run, points, to="source")
    np.testing.assert_allclose(moved, wanted, atol=1e-3)
    lines = out.read_text().splitlines()
    assert lines[:2] == ["# made by hand", "# scale 1 1 1"]
    assert [(line.split()[0], line.split()[1], *line.split()[5:]) for line in lines[2:]] == [
        (line.split()[0], line.split()[1], *line.split()[5:]) for line in file.read_text().splitlines()[2:]
    ]
    assert command("points", run, str(out), str(back), "--unit", unit, "--to", "aligned").returncode == 0
    there_and_back = swc_points(back.read_text()) / in_unit(np.ones((1, 3)), unit)
    broken = np.floor(points[:, 0]) == 3  # two parts overlap there, so the way back is ambiguous
    np.testing.assert_allclose(there_and_back[~broken[: len(there_and_back)]], points[~broken], atol=5e-3)


def test_children_of_unknown_nodes_get_the_nearest_known_ancestor(run: str, tmp_path: Path) -> None:
    points = np.array([[z, *MIDDLE] for z in (0.5, UNKNOWN + 0.5, UNKNOWN + 0.6, 1.5, 2.5)])
    (tmp_path / "n.swc").write_text(swc(points))
    shown = command("points", run, str(tmp_path / "n.swc"), str(tmp_path / "o.swc"), "--unit", "px", "--json")
    assert json.loads(shown.stdout)["unknown"] == 2
    assert "2 of 5 points are not covered by the alignment" in shown.stderr
    rows = [line.split() for line in (tmp_path / "o.swc").read_text().splitlines()[2:]]
    assert [(row[0], row[6]) for row in rows] == [("1", "-1"), ("4", "1"), ("5", "4")]


def test_a_point_on_a_border_is_in_the_section_that_begins_there(run: str, tmp_path: Path) -> None:
    points = np.array([[z, *MIDDLE] for z in (-0.4, 0, 1, 2, SHAPE[0] - 1)], dtype=float)
    for unit in ("nm", "um"):
        (tmp_path / "n.swc").write_text(swc(in_unit(points, unit)))
        out = tmp_path / f"{unit}.swc"
        assert command("points", run, str(tmp_path / "n.swc"), str(out), "--unit", unit).returncode == 0
        moved = swc_points(out.read_text())[:, 1:] / UNITS[unit][1]
        wanted = expected(run, np.maximum(points, 0)[:4], to="aligned")[:, 1:]
        np.testing.assert_allclose(moved, wanted, atol=1e-3)


def test_a_folder_of_skeletons(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.swc").write_text(swc(chain(count=5 + i)))
    (folder / "notes.txt").write_text("no skeleton")
    shown = command("points", run, str(folder), str(tmp_path / "out"), "--unit", "px", "--json")
    assert json.loads(shown.stdout)["files"] == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.swc", "1.swc", "2.swc"]
    mapped = swc_points((tmp_path / "out" / "2.swc").read_text())
    np.testing.assert_allclose(mapped, expected(run, chain(count=7), to="aligned"), atol=1e-3)


def skeleton(points: Any, edges: Any, *, radii: Any) -> bytes:
    vertices = points[:, ::-1].astype("<f4").tobytes()
    header = struct.pack("<II", len(points), len(edges))
    return header + vertices + np.array(edges, "<u4").tobytes() + np.array(radii, "<f4").tobytes()


def parsed(content: bytes) -> tuple[Any, Any, Any]:
    count, edge_count = struct.unpack_from("<II", content)
    vertices = np.frombuffer(content, "<f4", 3 * count, 8).reshape(-1, 3)[:, ::-1]
    edges = np.frombuffer(content, "<u4", 2 * edge_count, 8 + 12 * count).reshape(-1, 2)
    return vertices, edges, np.frombuffer(content, "<f4", count, 8 + 12 * count + 8 * edge_count)


@pytest.mark.parametrize("sharded", [False, True])
def test_precomputed_skeletons(run: str, tmp_path: Path, sharded: bool) -> None:
    folder = tmp_path / "skeletons"
    (folder / "props").mkdir(parents=True)
    (folder / "props" / "info").write_text('{"@type": "neuroglancer_segment_properties"}')
    info: dict[str, Any] = {
        "@type": "neuroglancer_skeletons",
        "transform": [2, 0, 0, 7, 0, 2, 0, 0, 0, 0, 2, 0],
        "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
        "segment_properties": "props",
    }
    points = chain(count=20)
    stored = (in_unit(points, "nm") - [0, 0, 7]) / 2
    content = skeleton(stored, [[i, i + 1] for i in range(19)], radii=range(20))
    if sharded:
        info["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "murmurhash3_x86_128",
            "preshift_bits": 1,
            "minishard_bits": 1,
            "shard_bits": 1,
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        }
        spec = {"driver": "neuroglancer_uint64_sharded", "metadata": info["sharding"], "base": f"file://{folder}/"}
        store = tensorstore.KvStore.open(spec).result()
        for segment in (17, 1 << 40):
            store.write(struct.pack(">Q", segment), content).result()
    else:
        (folder / "17").write_bytes(content)
        (folder / f"{1 << 40}.gz").write_bytes(gzip.compress(content))
        (folder / "0_1_2.spatial").write_text("{}")
    (folder / "info").write_text(json.dumps(info))
    shown = command("points", run, str(folder), str(tmp_path / "out"), "--to", "source")
    assert shown.returncode == 0, shown.stderr
    assert "2 files, 40 points" in shown.stdout
    written = json.loads((tmp_path / "out" / "info").read_text())
    assert written["transform"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert written["vertex_attributes"] == info["vertex_attributes"]
    assert "sharding" not in written
    assert (tmp_path / "out" / "props" / "info").exists()
    for name in ("17", str(1 << 40)):
        vertices, edges, radii = parsed((tmp_path / "out" / name).read_bytes())
        wanted = in_unit(expected(run, points, to="source"), "nm")
        np.testing.assert_allclose(vertices, wanted, atol=1e-3 * PIXEL_NM)
        assert edges.tolist() == [[i, i + 1] for i in range(19)]
        assert radii.tolist() == list(range(20))


def test_neighbours_of_unknown_vertices_are_joined() -> None:
    known = np.array([True, False, False, True, True, False, True])
    edges = np.array([[0, 1], [1, 2], [2, 3], [2, 4], [4, 6], [5, 4]])
    assert sorted(joined_edges(edges, known).tolist()) == [[0, 1], [0, 2], [2, 3]]


def mesh(points: Any, faces: Any, *, text: bool, normals: bool = False) -> bytes:
    names = ["x", "y", "z", *(("nx", "ny", "nz") if normals else ())]
    vertices = np.zeros(len(points), dtype=[*((name, "f4") for name in names), ("quality", "u1")])
    vertices["z"], vertices["y"], vertices["x"] = points.T
    vertices["quality"] = np.arange(len(points))
    rows = np.empty(len(faces), dtype=[("vertex_indices", object), ("red", "u1")])
    for i, face in enumerate(faces):
        rows[i] = (np.array(face, "i4"), i)
    elements = [plyfile.PlyElement.describe(vertices, "vertex"), plyfile.PlyElement.describe(rows, "face")]
    stream = io.BytesIO()
    plyfile.PlyData(elements, text=text, comments=["of a test"]).write(stream)
    return stream.getvalue()


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("corners", [3, 4])
def test_a_mesh(run: str, tmp_path: Path, text: bool, corners: int) -> None:
    points = chain(count=12, sections=3)
    unknown = np.array([[PARTIAL + 0.5, 20.0, 16.0], [UNKNOWN + 0.5, 70.0, 60.0]])
    faces = [[i, (i + 1) % 12, (i + 3) % 12] for i in range(11)] + [[0, 1, 12], [13, 2, 3]]
    if corners == 4:
        faces[0] = [0, 1, 2, 3]
    content = mesh(
        in_unit(np.concatenate([unknown[:1], points, unknown[1:]])[[*range(1, 13), 0, 13]], "nm"),
        faces,
        text=text,
        normals=True,
    )
    (tmp_path / "m.ply").write_bytes(content)
    shown = command("points", run, str(tmp_path / "m.ply"), str(tmp_path / "o.ply"), "--unit", "nm", "--to", "source")
    assert shown.returncode == 0, shown.stderr
    assert "2 of 14 points" in shown.stderr
    written = plyfile.PlyData.read(tmp_path / "o.ply")
    assert written.text == text
    assert written.comments == ["of a test"]
    vertices = written["vertex"].data
    assert vertices.dtype.names == ("x", "y", "z", "quality")
    moved = np.column_stack([vertices[axis] for axis in "zyx"])
    np.testing.assert_allclose(moved, in_unit(expected(run, points, to="source"), "nm"), atol=1e-3 * PIXEL_NM)
    assert [list(face) for face in written["face"]["vertex_indices"]] == faces[:11]
    assert written["face"]["red"].tolist() == list(range(11))


@pytest.mark.parametrize(
    ("name", "content", "words", "naming"),
    [
        ("a.swc", "1 2 3 4 5 1 -1\n", (), "name no unit"),
        ("a.swc", "", ("--unit", "px"), "has no nodes"),
        ("a.swc", "1 2 3 x 5 1 -1\n", ("--unit", "px"), "line 1 is '1 2 3 x 5 1 -1'"),
        ("a.swc", "1 2 3 4\n", ("--unit", "px"), "line 1"),
        ("a.swc", "1 2 3 4 1 1 7\n", ("--unit", "px"), "node 7 is a parent"),
        ("a.swc", "1 2 3 4 1 1 -1\n1 2 3 4 1 1 -1\n", ("--unit", "px"), "node 1 again"),
        ("a.swc", "1 2 3 4 5000 1 -1\n", ("--unit", "px"), "in section 5000"),
        ("a.swc", "1 2 3 4 1 1 -1\n", ("--unit", "mm"), "mm"),
        ("a.ply", "no mesh", ("--unit", "nm"), "PLY cannot be read"),
        ("a.ply", INTEGER_PLY, ("--unit", "nm"), "int32"),
        ("folder/notes.txt", "nothing", ("--unit", "nm"), "holds no skeletons or meshes"),
        ("folder/info", '{"@type": "neuroglancer_skeletons"}', ("--unit", "um"), "are in nm"),
        ("folder/info", '{"@type": "neuroglancer_skeletons", "transform": [1]}', (), "folder/info"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(
    run: str, tmp_path: Path, name: str, content: str, words: tuple[str, ...], naming: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    place = file if file.parent == tmp_path else file.parent
    ended = command("points", run, str(place), str(tmp_path / "out"), *words)
    assert ended.returncode == 2
    assert naming in ended.stderr
    if "mm" not in words:  # that sentence is typer's
        assert_one_sentence(ended, naming=naming)
    assert not (tmp_path / "out").exists()


def test_a_torn_skeleton_and_an_occupied_place(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "skeletons"
    folder.mkdir()
    (folder / "info").write_text('{"@type": "neuroglancer_skeletons"}')
    (folder / "5").write_bytes(skeleton(chain(count=4), [[0, 9]], radii=[]))
    assert_one_sentence(
        command("points", run, str(folder), str(tmp_path / "out")), naming="an edge names vertex 9 of 4"
    )
    (folder / "5").write_bytes(b"\x04\x00")
    assert_one_sentence(command("points", run, str(folder), str(tmp_path / "out")), naming="segment 5")
    assert_one_sentence(command("points", run, str(folder), str(folder / "out")), naming="out")
    assert_one_sentence(command("points", run, str(folder)), naming="needs a place")
    (tmp_path / "out").write_text("mine")
    assert_one_sentence(command("points", run, str(folder), str(tmp_path / "out")), naming="already there")
    assert (tmp_path / "out").read_text() == "mine"


def test_csv_block_by_block_and_in_nm(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssem_dask.cli import points_command

    monkeypatch.setattr(points_command, "_ROWS", 7)
    points = np.column_stack([np.arange(30) % 3, *np.random.default_rng(1).uniform(40, 80, (2, 30))])
    lines = ["x,name,z,y", *(f"{x:.6f},p{i},{z:.0f},{y:.6f}" for i, (z, y, x) in enumerate(points.tolist())), "", ""]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    shown = command("points", run, str(tmp_path / "p.csv"), "--to", "source")
    rows = [line.split(",") for line in shown.stdout.splitlines()]
    assert rows[0] == ["x", "name", "z", "y"]
    assert [row[1] for row in rows[1:]] == [f"p{i}" for i in range(30)]
    wanted = expected(run, points, to="source")
    np.testing.assert_allclose([[float(row[3]), float(row[0])] for row in rows[1:]], wanted[:, 1:], atol=1e-3)
    nm = in_unit(points + np.array([0.5, 0, 0]), "nm")
    (tmp_path / "n.csv").write_text("z,y,x\n" + "\n".join(",".join(map(repr, row)) for row in nm.tolist()))
    shown = command("points", run, str(tmp_path / "n.csv"), "--to", "source", "--unit", "nm")
    moved = np.array([[float(text) for text in line.split(",")] for line in shown.stdout.splitlines()[1:]])
    np.testing.assert_allclose(moved[:, 1:], wanted[:, 1:] * PIXEL_NM, atol=1e-3 * PIXEL_NM)
    assert command("points", run, str(tmp_path / "p.csv"), str(tmp_path / "o.csv")).returncode == 2


def test_map_file_from_python(run: str, tmp_path: Path) -> None:
    (tmp_path / "n.swc").write_text(swc(chain(count=5)))
    alignment = ssem_dask.open_alignment(run)
    done = alignment.map_file(tmp_path / "n.swc", tmp_path / "o.swc", to="aligned", unit="px")
    assert (done.files, done.points, done.unknown) == (1, 5, 0)
    with pytest.raises(SsemDaskError, match="unit = 'inch' is unknown"):
        alignment.map_file(tmp_path / "n.swc", tmp_path / "p.swc", to="aligned", unit="inch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'source' or 'aligned'"):
        alignment.map_file(tmp_path / "n.swc", tmp_path / "p.swc", to="there", unit="px")
