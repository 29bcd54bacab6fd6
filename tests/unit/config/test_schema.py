"""Errors in a configuration name the key and the cure, in one sentence."""

from pathlib import Path

import pytest

from ssem_dask.config.schema import load_config, make_config
from ssem_dask.errors import ConfigError

NEEDED = {"source": "in.zarr", "output": "out.zarr"}


@pytest.mark.parametrize(
    ("former", "value", "present"),
    [("plane", "384", "max_nodes"), ("tile", "256", "tile_nodes"), ("jumps_at", "[412]", "known_jumps")],
)
def test_a_renamed_key_is_refused_with_its_new_name(tmp_path: Path, former: str, value: str, present: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f'source = "in.zarr"\noutput = "out.zarr"\n[compose.relax]\n{former} = {value}\n')
    expected = rf"\[compose\.relax\] {former}: this key was renamed; write '{present}'\.$"
    with pytest.raises(ConfigError, match=expected):
        load_config(str(path))
    path.write_text(path.read_text().replace(former, present))
    load_config(str(path))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"output": "out.zarr"}, "Config: source: required key is missing; add it."),
        ({**NEEDED, "register": {"windw": 64}}, "Config: [register] windw: unknown key; did you mean 'window'?"),
        (
            {**NEEDED, "render": {"abc": 1}},
            "[render] abc: unknown key; known here: chunk, codec, contrast, interpolation, shard, unplaced.",
        ),
        ({**NEEDED, "coarse": {"neighbours": 0}}, "[coarse] neighbours = 0: input should be greater than"),
    ],
)
def test_an_error_names_the_key_and_the_cure(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config(dict(tree))
    assert message in str(raised.value)
