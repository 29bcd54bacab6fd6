"""The choice of L: distortion is separated from tissue, the choice follows, and too little to see gives the default."""

import numpy as np
import pytest
import torch

from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.evaluation.phantom import PhantomConfig, generate
from ssem_dask.field.grid import Grid
from ssem_dask.field.interpolate import sample
from ssem_dask.geometry.box import Box
from ssem_dask.registration.gauss_newton.smoothness import LengthStep, choose_smoothness, measure_step, probe_window
from ssem_dask.registration.gauss_newton.solver import DEFAULT_SMOOTHNESS, GaussNewtonConfig
from ssem_dask.registration.registration_method import WindowImages

SIDE = 384


def _independent(n: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 2, 40, 40, generator=torch.Generator().manual_seed(seed))


def _share(added: torch.Tensor) -> float:
    known = torch.ones(len(added), *added.shape[2:], dtype=torch.bool)
    return measure_step(added, known=known, shorter=16.0, longer=22.6).distortion


def test_the_share_tells_distortion_from_tissue_and_from_noise():
    sections = _independent(60)
    distortion = sections[:-1] - sections[1:]
    tissue = [_independent(1, seed=2)[0]]
    for section in _independent(59, seed=3):
        tissue.append(0.85 * tissue[-1] + (1 - 0.85**2) ** 0.5 * section)
    natural = torch.stack(tissue)[1:]
    assert _share(distortion) == pytest.approx(1.0, abs=0.1)
    assert _share(natural) < 0.1
    assert abs(_share(sections)) < 0.1
    assert 0.5 < _share(distortion + natural) < 0.75


def test_damage_and_unknown_places_do_not_decide():
    sections = _independent(20)
    added = sections[:-1] - sections[1:]
    added[7] = 1000.0
    assert _share(added) > 0.7
    known = torch.ones(len(added), *added.shape[2:], dtype=torch.bool)
    known[:, :5] = False
    hidden = added.clone()
    hidden[:, :, :5] = 77.0
    step, same = (measure_step(v, known=known, shorter=1.0, longer=2.0) for v in (added, hidden))
    assert step == same


def _window(*shares: float) -> list[LengthStep]:
    lengths = (22.6, 32.0, 45.3)
    return [
        LengthStep(shorter=a, longer=b, added=1.0, lag1=-q / 2, lag2=0.0)
        for a, b, q in zip(lengths[:-1], lengths[1:], shares, strict=True)
    ]


def test_rough_distortion_gets_a_shorter_length_and_undistorted_tissue_the_longest():
    def chosen(*windows: list[LengthStep]) -> float:
        return choose_smoothness(windows, pixel_size=5.0).smoothness[0]

    assert chosen(_window(0.1, 0.2)) == 24.0
    assert chosen(_window(0.4, 0.8)) == pytest.approx(21.5, abs=0.1)
    lengths = [chosen(_window(0.0, q)) for q in (0.31, 0.4, 0.6, 1.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert 20.0 <= lengths[-1] < lengths[0] <= 24.0
    # One window that sees something else does not decide, nor does one that sees nothing.
    assert chosen(_window(0.1, 0.2), _window(0.9, 0.9), _window(0.0, 0.0), []) == 24.0


def test_the_reason_names_length_windows_and_figures():
    reason = choose_smoothness([_window(0.4, 0.8)] * 2, pixel_size=8.0).reason
    assert "smoothness 22 px = 172 nm, from 2 windows" in reason
    assert "0.40 at 27 px" in reason


def test_nothing_to_see_gives_the_default_and_says_so():
    choice = choose_smoothness([[], []], pixel_size=5.0)
    assert choice.smoothness == (DEFAULT_SMOOTHNESS,)
    assert "default" in choice.reason
    config = GaussNewtonConfig()
    few = torch.rand(5, 128, 128)
    empty = torch.rand(8, 128, 128)
    for images, valid in ((few, torch.ones_like(few).bool()), (empty, torch.zeros_like(empty).bool())):
        window = WindowImages(images=images, valid=valid, grid=Grid((128, 128), 1.0))
        assert probe_window(window, config=config, device="cpu") == ()


def _observed(kind: str) -> torch.Tensor:
    config = PhantomConfig(seed=12, shape=(12, SIDE, SIDE), oblique=0.0)
    tissue = torch.from_numpy(generate(config, Box((0, 0, 0), config.shape)).image.astype(np.float32))
    grid = Grid((SIDE, SIDE), 1.0)
    at = grid.positions()
    bends = [
        draw_deformation(DeformationConfig.preset(kind), seed=6, z=z, shape_yx=grid.shape)  # type: ignore[arg-type]
        for z in range(12)
    ]
    seen = [
        sample(s[None], grid=grid, positions=at + d.at(at), kind="bicubic")[0]
        for s, d in zip(tissue, bends, strict=True)
    ]
    return torch.stack(seen)


@pytest.mark.slow
def test_a_rough_warp_of_the_same_tissue_is_given_a_shorter_length():
    choices = {}
    for kind in ("smooth", "rough"):
        images = _observed(kind)
        valid = torch.ones_like(images).bool()
        window = WindowImages(images=images, valid=valid, grid=Grid((SIDE, SIDE), 1.0))
        steps = probe_window(window, config=GaussNewtonConfig(), device="cpu")
        choices[kind] = choose_smoothness([steps], pixel_size=5.0).smoothness[0]
    assert choices["rough"] < 0.95 * choices["smooth"]
