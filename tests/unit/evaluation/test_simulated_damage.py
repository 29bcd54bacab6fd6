"""Damage: which sections, and exactly what is known about them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ssem_dask.errors import ConfigError
from ssem_dask.evaluation.deformation import DeformationConfig, draw_deformation
from ssem_dask.evaluation.observation import ObservedSection, nearest_labels, observe_section, truth_field
from ssem_dask.evaluation.simulated_damage import DamageConfig, SectionDamage, draw_damage, plan_damage
from ssem_dask.evaluation.simulated_tears import Tear, draw_tear
from ssem_dask.field.folding import jacobian_determinant
from ssem_dask.field.grid import Grid
from ssem_dask.field.warp import sample_image

SHAPE = (240, 280)
PIXELS = Grid(SHAPE, 1.0)
IMAGE = (60 + 140 * (gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 3) > 0)).astype(np.uint8)
LABELS = (np.arange(SHAPE[0])[:, None] // 20 * 20 + np.arange(SHAPE[1])[None, :] // 20 + 2**33).astype(np.uint64)


def seen(kind: str, *, z: int = 4, deformation: str = "rough") -> tuple[ObservedSection, torch.Tensor, SectionDamage]:
    drawn = draw_deformation(DeformationConfig.preset(deformation), seed=1, z=z, shape_yx=SHAPE)  # type: ignore[arg-type]
    damage = draw_damage(kind, config=DamageConfig(), seed=1, z=z, shape_yx=SHAPE)  # type: ignore[arg-type]
    section = observe_section(IMAGE, labels=LABELS, deformation=drawn, damage=damage, noise=np.random.default_rng(z))
    return section, truth_field(deformation=drawn, damage=damage, grid=PIXELS), damage


@pytest.mark.parametrize("kind", ["fold", "crack", "dust", "stain"])
def test_outside_the_damage_the_section_is_the_truth_pulled_by_the_field(kind: str) -> None:
    section, field, damage = seen(kind)
    image = torch.from_numpy(IMAGE.astype(np.float32))[None]
    expected, _ = sample_image(image, grid=PIXELS, positions=PIXELS.positions() + field, kind="bicubic")
    sound = ~section.damage & torch.isfinite(field).all(dim=0).numpy()
    difference = np.abs(section.image.astype(float) - expected[0].clamp(0, 255).numpy())[sound]
    assert 0.001 < section.damage.mean() < 0.4
    if kind == "stain":  # it lets some light through
        assert np.median(difference) < 8
    else:
        assert difference.max() <= (2.0 if kind == "dust" else 0.51)  # the soft rim of a grain
    assert section.labels is not None
    positions = PIXELS.positions() + field
    pulled = nearest_labels(LABELS, positions=positions)
    clear = sound & ((positions - positions.round()).abs().amin(dim=0) > 1e-3).numpy()  # rounding decides at borders
    assert clear.mean() > 0.5
    assert np.array_equal(section.labels[clear], pulled[clear])
    assert damage.kind == kind


@pytest.mark.parametrize("kind", ["fold", "crack"])
def test_truth_is_unknown_in_a_tear_and_only_there(kind: str) -> None:
    section, field, damage = seen(kind)
    assert damage.tear is not None
    unknown = torch.isnan(field).any(dim=0)
    assert torch.equal(unknown, damage.tear.inside(PIXELS.positions()))
    assert bool(unknown.any())
    assert section.damage[unknown.numpy()].all()


def test_a_fold_is_dark_and_a_crack_is_bright() -> None:
    fold, field, _ = seen("fold")
    band = torch.isnan(field).any(dim=0).numpy()
    assert fold.image[band].mean() < 0.7 * IMAGE.mean()
    crack, field, _ = seen("crack")
    band = torch.isnan(field).any(dim=0).numpy()
    assert crack.image[band].mean() > 180
    assert crack.labels is not None
    assert not crack.labels[band].any()


def straight(kind: str, *, width: float) -> Tear:
    return Tear(
        kind=kind,  # type: ignore[arg-type]
        centre=(120.0, 140.0),
        angle=0.0,
        width=width,
        half_length=1e6,
        wave=(0.0, 100.0, 0.0),
        relaxation=1e9,
    )


def test_a_crack_pushes_tissue_apart_by_its_width() -> None:
    field = straight("crack", width=12.0).displacement(PIXELS.positions())
    assert torch.allclose(field[0, 20], torch.tensor(6.0), atol=1e-3)
    assert torch.allclose(field[0, 220], torch.tensor(-6.0), atol=1e-3)
    assert float(field[1].abs().max()) < 1e-3


def test_a_fold_hides_twice_its_width() -> None:
    tear = straight("fold", width=10.0)
    field = tear.displacement(PIXELS.positions())
    assert torch.allclose(field[0, 20], torch.tensor(-10.0), atol=1e-3)
    assert torch.allclose(field[0, 220], torch.tensor(10.0), atol=1e-3)
    # The three layers join: each begins where the one before ends.
    edges = torch.tensor([[[115.0], [125.0]], [[140.0], [140.0]]])
    first, back, last = (layer[0, :, 0] + edges[0, :, 0] for layer in tear.layers(edges))
    torch.testing.assert_close(first, torch.tensor([105.0, 115.0]))
    torch.testing.assert_close(back, torch.tensor([125.0, 115.0]))
    torch.testing.assert_close(last, torch.tensor([125.0, 135.0]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["fold", "crack"]))
def test_tissue_beside_a_tear_is_never_folded(seed: int, kind: str) -> None:
    tear = draw_tear(kind, width=14.0, shape_yx=SHAPE, generator=np.random.default_rng(seed))  # type: ignore[arg-type]
    positions = PIXELS.positions()
    field = torch.where(tear.inside(positions, margin=1.5), torch.nan, tear.displacement(positions))
    determinant = jacobian_determinant(field, spacing=1.0)
    assert float(determinant[torch.isfinite(determinant)].min()) > 0.3


def test_absent_sections_have_neither_tissue_nor_truth() -> None:
    missing, field, damage = seen("missing")
    assert damage.absent
    assert not missing.image.any()
    assert missing.damage.all()
    assert bool(torch.isnan(field).all())
    blank, field, _ = seen("blank")
    assert blank.image.std() < 6
    assert blank.image.mean() > 150
    assert blank.damage.all()
    assert bool(torch.isnan(field).all())


def test_contrast_changes_every_pixel_but_hides_none() -> None:
    section, field, _ = seen("contrast", deformation="none")
    assert not section.damage.any()
    assert float(field.abs().max()) == 0.0
    assert abs(float(section.image.mean()) - float(IMAGE.mean())) > 3
    assert np.corrcoef(section.image.ravel(), IMAGE.ravel())[0, 1] > 0.95


def test_damage_is_reproducible() -> None:
    for kind in ("fold", "crack", "dust", "stain", "contrast", "blank"):
        assert np.array_equal(seen(kind)[0].image, seen(kind)[0].image)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), sections=st.integers(3, 200), fraction=st.floats(0.0, 1.0))
def test_the_plan_has_the_wanted_number_and_uses_every_kind_first(seed: int, sections: int, fraction: float) -> None:
    config = DamageConfig(fraction=fraction, missing=(1,))
    plan = plan_damage(config, seed=seed, sections=sections)
    damaged = [kind for kind in plan.values() if kind != "missing"]
    assert plan[1] == "missing"
    assert len(damaged) == min(round(fraction * sections), sections - 1)
    counts = [sum(kind == other for other in damaged) for kind in config.kinds]
    assert max(counts) - min(counts) <= 1
    assert plan == plan_damage(config, seed=seed, sections=sections)
    assert list(plan) == sorted(plan)


def test_a_missing_section_outside_the_volume_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"section 20 is not in the volume of 20 sections"):
        plan_damage(DamageConfig(missing=(20,)), seed=0, sections=20)
