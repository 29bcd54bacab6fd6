"""A window's check of its own result: sound pairs pass, what is wrong is searched wider, then given up."""

import torch

from ssem_dask.field.grid import Grid
from ssem_dask.registration.checked_window import CheckedPairs, register_checked
from ssem_dask.registration.gauss_newton.gauss_newton_window import SEARCH_RANGE_PX
from ssem_dask.registration.methods import RegisterConfig, register_window
from ssem_dask.registration.pair_check import PairDefect, check_pairs, prepare_check
from ssem_dask.registration.registration_method import PairRequest, WindowImages
from tests.support.textures import deformed_sections, texture

SIDE = 384
GRID = Grid((SIDE, SIDE), 1.0)
NODES = Grid.of_section((SIDE, SIDE), spacing=16)
CONFIG = RegisterConfig(method="gauss_newton")


def _window(images: torch.Tensor) -> WindowImages:
    return WindowImages(images=images, valid=torch.ones_like(images, dtype=torch.bool), grid=GRID)


def _request(sections: int) -> PairRequest:
    return PairRequest(nodes=NODES, core=range(sections), neighbours=1)


def _checked(images: torch.Tensor) -> CheckedPairs:
    return register_checked(_window(images), _request(len(images)), config=CONFIG, device="cpu")


def _defect(
    field: torch.Tensor,
    images: torch.Tensor,
    mask: torch.Tensor,
    *,
    search_range: float,
    untied: frozenset[int] = frozenset(),
) -> PairDefect | None:
    check = prepare_check(images, valid=torch.stack([mask, mask]), image=GRID, nodes=NODES, untied=untied)
    (defect,) = check_pairs(field[None], pairs=[(0, 1)], check=check, search_range=search_range)
    return defect


def test_sound_pairs_are_left_as_they_are():
    images, _ = deformed_sections(texture(1, SIDE).expand(3, -1, -1), rms=3.0)
    checked = _checked(images)
    found, plain = checked.pairs, register_window(_window(images), _request(3), config=CONFIG, device="cpu")
    assert checked.faults == []
    assert torch.equal(found.fields.isnan(), plain.fields.isnan())
    assert torch.equal(found.fields.nan_to_num(), plain.fields.nan_to_num())
    assert torch.equal(found.confidence, plain.confidence)


def test_a_jump_beyond_the_search_is_found_by_the_wider_one():
    wide, margin = texture(2, SIDE + 320), 160
    jump = SEARCH_RANGE_PX + 40, -(SEARCH_RANGE_PX + 20)
    # The point y of the fixed section is at y + jump in the moving one.
    rows, columns = (slice(margin - j, margin - j + SIDE) for j in jump)
    fixed, moving = wide[margin : margin + SIDE, margin : margin + SIDE], wide[rows, columns]
    images = torch.stack([moving, fixed])
    checked = _checked(images)
    found = checked.pairs
    assert [(fault.k, fault.z, fault.recovered) for fault in checked.faults] == [(1, 1, True)]
    known = found.fields[0, 1][:, torch.isfinite(found.fields[0, 1, 0])]
    assert known.shape[1] > 0.2 * NODES.shape[0] * NODES.shape[1]
    assert torch.allclose(known.median(dim=1).values, torch.tensor(jump, dtype=torch.float32), atol=0.5)


def test_sections_that_have_nothing_in_common_become_unknown():
    images = torch.stack([texture(3, SIDE), texture(4, SIDE), texture(4, SIDE)])
    checked = _checked(images)
    found = checked.pairs
    assert [(fault.k, fault.z, fault.recovered) for fault in checked.faults] == [(1, 1, False)]
    assert torch.isfinite(found.fields[0, 1]).float().mean() < 0.1
    assert torch.isfinite(found.fields[0, 2]).float().mean() > 0.8
    assert (found.confidence[0, 1][found.fields[0, 1, 0].isnan()] == 0).all()


def test_each_reason_is_named():
    image = texture(5, SIDE)
    mask = torch.ones_like(image, dtype=torch.bool)
    nodes = NODES.positions()

    def reason(field: torch.Tensor, *, moving: torch.Tensor = image, search_range: float = 96.0) -> str | None:
        defect = _defect(field, torch.stack([image, moving]), mask, search_range=search_range)
        return None if defect is None else defect.reason

    still = torch.zeros_like(nodes)
    assert reason(still) is None
    assert "matched" in str(reason(torch.full_like(still, torch.nan)))
    assert reason((SIDE - 2 * nodes) * (torch.arange(NODES.shape[1]) % 2)) == "folded"
    assert reason(still + 60.0, search_range=90.0) == "at the end of the search range"
    assert str(reason(still + 60.0, search_range=900.0)).startswith("sections unlike")
    assert str(reason(still, moving=texture(6, SIDE))).startswith("sections unlike")


def test_a_section_that_nothing_tied_needs_a_better_match():
    image = texture(5, SIDE)
    alike = torch.stack([image, 0.15 * image + texture(6, SIDE)])
    still, mask = torch.zeros_like(NODES.positions()), torch.ones_like(image, dtype=torch.bool)
    assert _defect(still, alike, mask, search_range=96.0) is None
    for section in (0, 1):
        defect = _defect(still, alike, mask, search_range=96.0, untied=frozenset({section}))
        assert defect is not None
        assert defect.reason.startswith("sections unlike")
        assert not defect.keeps_nodes


def test_so_few_known_nodes_that_nothing_can_be_compared_do_not_stay():
    image = texture(5, SIDE)
    few = torch.full_like(NODES.positions(), torch.nan)
    few[:, 4:8, 4:8] = 0.0
    mask = torch.ones_like(image, dtype=torch.bool)
    kept = _defect(few, torch.stack([image, image]), mask, search_range=96.0)
    assert kept is not None
    assert not kept.keeps_nodes


def test_where_there_is_no_tissue_there_is_nothing_to_judge():
    image = texture(5, SIDE)
    mask = torch.zeros_like(image, dtype=torch.bool)
    field = torch.full_like(NODES.positions(), torch.nan)
    assert _defect(field, torch.stack([image, image]), mask, search_range=96.0) is None
