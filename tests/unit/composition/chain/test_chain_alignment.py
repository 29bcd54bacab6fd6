import pytest
import torch

from ssem_dask.composition.chain.chain_alignment import ChainConfig, align_block, broadcast, fade, stitch
from ssem_dask.composition.smooth import gaussian_blur
from ssem_dask.field.compose import compose
from ssem_dask.field.inverse import inverse

SPACING = 16.0
SHAPE = (24, 28)
STEPS = 3


def smooth_fields(count: int, *, rms: float, seed: int, sigma: float = 5.0) -> torch.Tensor:
    """Random smooth fields that vanish towards the border, so that no field points outside."""
    noise = torch.randn(count, 2, *SHAPE, generator=torch.Generator().manual_seed(seed))
    fields = gaussian_blur(noise, sigma=sigma)
    taper = [torch.sin(torch.pi * (torch.arange(n) + 0.5) / n) for n in SHAPE]
    fields = fields * taper[0][:, None] * taper[1][None, :]
    return fields * (rms / fields.square().mean().sqrt())


def pairs_between(truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair fields that perfectly registered sections with a_z = truth would show: p_k[z] = a_{z-k} ∘ a_z⁻¹."""
    count = len(truth)
    back = [inverse(t, spacing=SPACING) for t in truth]
    pairs = torch.full((STEPS, count, 2, *SHAPE), torch.nan)
    for k in range(1, STEPS + 1):
        for z in range(k, count):
            pairs[k - 1, z] = compose(outer=truth[z - k], inner=back[z], spacing=SPACING)
    return pairs, torch.ones(STEPS, count, *SHAPE)


def in_frame_of(truth: torch.Tensor, first: int) -> torch.Tensor:
    """truth_z ∘ truth_first⁻¹: the same alignment with section `first` at rest."""
    back = inverse(truth[first], spacing=SPACING)
    return torch.stack([compose(outer=t, inner=back, spacing=SPACING) for t in truth])


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """95th percentile of the distance inside a two-node margin, px."""
    distance = torch.linalg.vector_norm(a - b, dim=-3)[..., 2:-2, 2:-2]
    return float(distance.quantile(0.95))


def chain_all(
    pairs: torch.Tensor, confidence: torch.Tensor, *, config: ChainConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole mode, as the compose stage runs it."""
    count = pairs.shape[1]
    fields, flags = [], []
    stitches: list[tuple[torch.Tensor, int]] = []
    previous = None
    for start in range(0, count, config.block):
        read = slice(start, min(start + config.block + config.stitch, count))
        own, flagged = align_block(pairs[:, read], confidence[:, read], spacing=SPACING, config=config)
        if previous is not None:
            turn = stitch(previous, own[: len(previous)], spacing=SPACING, config=config)
            stitches.insert(0, (turn, start))
        size = min(config.block, count - start)
        fading = [(turn, start - first) for turn, first in stitches]
        fields.append(broadcast(own[:size], fading, spacing=SPACING, config=config))
        flags.append(flagged[:size])
        previous = torch.where(flagged[size:, None], torch.nan, own[size:])
    return torch.cat(fields), torch.cat(flags)


def test_one_block_recovers_consistent_fields_exactly_up_to_the_gauge() -> None:
    truth = smooth_fields(8, rms=4.0, seed=1)
    fields, flagged = align_block(*pairs_between(truth), spacing=SPACING, config=ChainConfig())
    assert error(fields, in_frame_of(truth, 0)) < 0.3
    assert error(torch.zeros_like(truth), in_frame_of(truth, 0)) > 5.0
    assert not flagged[:, 2:-2, 2:-2].any()


def test_blocks_and_stitches_without_decay_recover_the_same_as_one_long_chain() -> None:
    truth = smooth_fields(17, rms=4.0, seed=2)
    config = ChainConfig(block=5, decay=10**6, blur=0.0)
    fields, _ = chain_all(*pairs_between(truth), config=config)
    assert error(fields, in_frame_of(truth, 0)) < 0.5


@pytest.mark.parametrize("k", [1, 2, 3])
def test_one_wrong_pair_field_is_outvoted(k: int) -> None:
    truth = smooth_fields(8, rms=4.0, seed=3)
    pairs, confidence = pairs_between(truth)
    pairs[k - 1, 5] += 40.0
    fields, _ = align_block(pairs, confidence, spacing=SPACING, config=ChainConfig())
    assert error(fields, in_frame_of(truth, 0)) < 0.3


@pytest.mark.parametrize("lost", [[3], [3, 4]])
def test_lost_sections_are_bridged_and_flagged_and_their_neighbours_are_right(lost: list[int]) -> None:
    truth = smooth_fields(8, rms=4.0, seed=4)
    pairs, confidence = pairs_between(truth)
    for z in lost:
        pairs[:, z] = torch.nan
        for k in range(1, STEPS + 1):
            pairs[k - 1, z + k : z + k + 1] = torch.nan
    fields, flagged = align_block(pairs, confidence, spacing=SPACING, config=ChainConfig())
    others = [z for z in range(8) if z not in lost]
    expected = in_frame_of(truth, 0)
    assert error(fields[others], expected[others]) < 0.3
    assert flagged[lost].all()
    assert not flagged[others][:, 2:-2, 2:-2].any()
    assert torch.isfinite(fields).all()
    before, after = fields[lost[0] - 1], fields[lost[-1] + 1]
    for z in lost:
        share = (z - lost[0] + 1) / (len(lost) + 1)
        assert torch.allclose(fields[z], (1 - share) * before + share * after, atol=1e-5)


def test_a_lost_first_section_hands_the_frame_to_the_next() -> None:
    truth = smooth_fields(6, rms=4.0, seed=5)
    pairs, confidence = pairs_between(truth)
    for k in range(1, STEPS + 1):
        pairs[k - 1, k] = torch.nan
    fields, flagged = align_block(pairs, confidence, spacing=SPACING, config=ChainConfig())
    assert error(fields[1:], in_frame_of(truth, 1)[1:]) < 0.3
    assert flagged[0].all()
    assert not flagged[1:, 2:-2, 2:-2].any()


def test_sections_behind_a_gap_that_no_pair_spans_are_flagged_and_carried_on() -> None:
    truth = smooth_fields(8, rms=4.0, seed=6)
    pairs, confidence = pairs_between(truth)
    for k in range(1, STEPS + 1):
        pairs[k - 1, 4 : 4 + k] = torch.nan
    fields, flagged = align_block(pairs, confidence, spacing=SPACING, config=ChainConfig())
    assert flagged[4:].all()
    assert not flagged[:4, 2:-2, 2:-2].any()
    # What the pairs behind the gap say about each other is kept: p_1[6] still takes section 6 to section 5.
    assert error(compose(outer=pairs[0, 6], inner=fields[6], spacing=SPACING), fields[5]) < 0.3


def test_a_hole_is_filled_smoothly_and_flagged() -> None:
    truth = smooth_fields(4, rms=4.0, seed=7)
    pairs, confidence = pairs_between(truth)
    pairs[:, 3, :, 10:14, 12:16] = torch.nan
    fields, flagged = align_block(pairs, confidence, spacing=SPACING, config=ChainConfig())
    assert flagged[3, 11:13, 13:15].all()
    assert flagged[3].float().mean() < 0.1
    assert error(fields, in_frame_of(truth, 0)) < 1.0


def test_nothing_known_gives_identity_and_flags_everything_but_the_frame() -> None:
    pairs = torch.full((STEPS, 5, 2, *SHAPE), torch.nan)
    fields, flagged = align_block(pairs, torch.zeros(STEPS, 5, *SHAPE), spacing=SPACING, config=ChainConfig())
    assert torch.equal(fields, torch.zeros_like(fields))
    assert flagged[1:].all()


@pytest.mark.slow
def test_neighbours_stay_together_across_block_borders() -> None:
    truth = smooth_fields(30, rms=4.0, seed=8)
    pairs, confidence = pairs_between(truth)
    config = ChainConfig()
    fields, _ = chain_all(pairs, confidence, config=config)
    jumps = torch.stack(
        [
            torch.linalg.vector_norm(
                compose(outer=pairs[0, z], inner=fields[z], spacing=SPACING) - fields[z - 1], dim=0
            )[2:-2, 2:-2].median()
            for z in range(1, 30)
        ]
    )
    borders = [z - 1 for z in (10, 20)]
    inside = [i for i in range(29) if i not in borders]
    # Decay lets go of 1/decay of each stitch per section, inside blocks as at their borders.
    assert jumps.max() < 0.5
    assert jumps[borders].max() < 2 * jumps[inside].max() + 0.1


def test_decay_bounds_the_drift_of_a_constant_bias() -> None:
    count, step = 60, 1.0
    pairs = torch.zeros(1, count, 2, 6, 6)
    pairs[:, :, 0] = step
    confidence = torch.ones(1, count, 6, 6)
    free = ChainConfig(decay=10**6, blur=0.0)
    fields, _ = chain_all(pairs, confidence, config=free)
    assert float(fields[-1].abs().max()) == pytest.approx(step * (count - 1), rel=0.01)
    bounded, _ = chain_all(pairs, confidence, config=ChainConfig(decay=20))
    # Each block adds `block · step`; a stitch j blocks back counts 1 - j · block / decay.
    assert float(bounded.abs().max()) <= step * (20 / 2 + 10 + 1)
    assert torch.allclose(bounded[40].abs().max(), bounded[50].abs().max(), atol=0.1)


def test_fade_scales_linearly_and_ends() -> None:
    field = torch.ones(2, *SHAPE)
    config = ChainConfig(decay=10)
    whole, part = (fade(field, distance=d, spacing=SPACING, config=config) for d in (0, 4))
    assert whole is not None
    assert part is not None
    assert torch.equal(whole, field)
    assert torch.allclose(part, 0.6 * field)
    assert fade(field, distance=10, spacing=SPACING, config=config) is None


def test_fade_blurs_more_the_farther() -> None:
    field = torch.zeros(2, *SHAPE)
    field[:, 12, 14] = 1.0
    config = ChainConfig(blur=4.0)
    faded = [fade(field, distance=d, spacing=SPACING, config=config) for d in (0, 4, 8, 16)]
    peaks = [float(f.max()) for f in faded if f is not None]
    assert len(peaks) == 4
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == 1.0
    assert peaks[2] < 0.2


def test_first_section_of_a_block_is_stitched_exactly() -> None:
    turn = smooth_fields(1, rms=5.0, seed=9)[0]
    own = smooth_fields(3, rms=5.0, seed=10)
    own[0] = 0
    previous = torch.stack([compose(outer=o, inner=turn, spacing=SPACING) for o in own])
    found = stitch(previous, own, spacing=SPACING, config=ChainConfig())
    assert error(found, turn) < 0.2
    previous[0] = torch.nan
    assert error(stitch(previous, own, spacing=SPACING, config=ChainConfig()), turn) < 0.3
