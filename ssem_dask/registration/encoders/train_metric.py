"""Self-supervised training of the metric network on a roughly aligned stack.

A patch of features of one section is searched in a neighbouring section by normalised cross-correlation over all
channels, at every shift up to ±10 feature px. The correlations are logits whose target is the shift 0 (cross-entropy).
No labels are needed: training uses only that neighbours show about the same tissue at about the same position, so
sections must be aligned to a few px. Same sections, config and seed give the same weights on one machine and thread
count.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ssem_dask.errors import SourceError
from ssem_dask.image.tissue import tissue_mask
from ssem_dask.registration.encoders.local_contrast import normalise_contrast
from ssem_dask.registration.encoders.metric import FORMAT, SPACING, MetricNetwork, MetricWeights, initialise_metric
from ssem_dask.registration.encoders.train_autoencoder import Progress, minimise_loss
from ssem_dask.types import AnyArray, ConfigBase

_SECTION_DISTANCE_NM = 40.0  # sections closer than this are almost copies, and teach nothing
_NEIGHBOURS = 3
_MAX_MAGNIFICATION = 2.5


class MetricTrainConfig(ConfigBase):
    """How the metric network is trained."""

    width: int = Field(default=24, ge=1)
    """Channels inside the network."""
    channels: int = Field(default=4, ge=1)
    """Channels of the features."""
    normalisation_window: int = Field(default=128, ge=8)
    """Side, in px, of the surroundings that normalise the contrast."""
    pixels: tuple[float, ...] = (5.0, 10.0)
    """Pixel sizes, nm, to which sections are resampled; magnified at most 2.5 times."""
    crop: int = Field(default=224, ge=64, multiple_of=SPACING)
    """Side of a training image, px; smaller if the sections are smaller."""
    patches: tuple[int, ...] = (8, 12, 20)
    """Sides of the patches that are searched, feature px; those that fit."""
    search: int = Field(default=10, ge=1)
    """Largest shift at which patches are searched, feature px."""
    batch: int = Field(default=6, ge=1)
    """Pairs of sections per step."""
    patches_per_pair: int = Field(default=8, ge=1)
    """Patches of each pair."""
    sharpness: float = Field(default=8.0, gt=0)
    """Logits per unit of correlation: a larger value trusts single patches more, also chance matches."""
    steps: int = Field(default=1000, ge=1)
    """Steps of Adam."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Adam's rate at the start; it falls to 0 along a cosine."""
    noise: float = Field(default=0.5, ge=0)
    """Largest noise that is added to either section, local standard deviations."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the sections, the last ones, kept back to measure how often patches are found."""


def train_metric(
    sections: Sequence[AnyArray],
    *,
    pixel_size: float,
    section_thickness: float,
    command: str,
    config: MetricTrainConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress,
) -> MetricWeights:
    """Train on consecutive sections.

    Args:
        sections: images `(y, x)` of any real dtype, roughly aligned, in order.
        pixel_size: nm per pixel.
        section_thickness: nm; neighbours are sections about 40, 80 and 120 nm apart, at least 1, 2 and 3 sections.
        command: the command line, for the record.
        config: training parameters.
        seed: seed of the initial weights and of the patches.
        device: torch device.
        progress: called after every step.

    Raises:
        SourceError: the sections are too few or too small.
    """
    distances = neighbour_distances(section_thickness)
    kept_back = round(len(sections) * config.held_out)
    kept_back = kept_back if kept_back > distances[-1] else 0
    stacks = _magnify(sections, pixel_size=pixel_size, config=config)
    train = [stack[: len(stack) - kept_back] for stack in stacks]
    if not train or len(train[0]) <= distances[-1]:
        wanted = _least_side(config) / min(_MAX_MAGNIFICATION, pixel_size / min(config.pixels))
        raise SourceError(
            f"train: {len(sections)} sections of {sections[0].shape if len(sections) else ()} px are too few or too "
            f"small: wanted more than {distances[-1]} of at least {wanted:.0f} px a side; give a larger stack."
        )
    generator = torch.Generator().manual_seed(seed)
    model = initialise_metric(width=config.width, channels=config.channels, generator=generator)
    # Convolutions on a CPU are twice as fast with the channels innermost.
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss() -> Tensor:
        pairs = _draw_pairs(train, distances, config, generator).to(device)
        return _match_patches(model, pairs, config, generator)[0]

    minimise_loss(model, loss, steps=config.steps, learning_rate=config.learning_rate, progress=progress)
    test = [stack[len(stack) - kept_back :] for stack in stacks] if kept_back else train
    figures = {
        "train": _matched_share(model, train, distances, config, seed=seed + 1),
        "held_out": _matched_share(model, test, distances, config, seed=seed + 1),
    }
    return MetricWeights(model, _metadata(config, seed, figures, command, pixel_size, section_thickness, len(train[0])))


def neighbour_distances(section_thickness: float) -> tuple[int, ...]:
    """Compute the distances, in sections, of the neighbours that training compares."""
    step = max(1, round(_SECTION_DISTANCE_NM / section_thickness))
    return tuple(step * k for k in range(1, _NEIGHBOURS + 1))


def correlation_surface(
    patches: Float[Tensor, "m c p p"], *, windows: Float[Tensor, "m c q q"]
) -> Float[Tensor, "m q-p+1 q-p+1"]:
    """Compute the normalised cross-correlation over all channels at every shift, in [-1, 1].

    Args:
        patches: patches that are searched.
        windows: windows in which they are searched, one per patch; q > p.
    """
    p, q = patches.shape[-1], windows.shape[-1]
    centred = patches - patches.mean(dim=(2, 3), keepdim=True)
    # By Fourier transform: a patch moved by at most q - p stays inside the window, so nothing wraps around.
    spectrum = torch.fft.rfft2(windows) * torch.fft.rfft2(centred, s=(q, q)).conj()
    cross = torch.fft.irfft2(spectrum.sum(dim=1), s=(q, q))[:, : q - p + 1, : q - p + 1] / p**2
    variance = (avg_pool2d(windows.square(), p, 1) - avg_pool2d(windows, p, 1).square()).clamp(min=0).sum(dim=1)
    patch_variance = centred.square().mean(dim=(2, 3)).sum(dim=1)
    surface: Tensor = cross / (variance * patch_variance[:, None, None] + 1e-12).sqrt()
    return surface


def _match_patches(
    model: MetricNetwork, pairs: Tensor, config: MetricTrainConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Compute the loss of a batch of pairs `(n, 2, y, x)`, and the share of patches found to within one feature px."""
    features = model.encode(pairs.flatten(0, 1))
    features = features.reshape(len(pairs), 2, *features.shape[1:])
    search = config.search
    fitting = [side for side in config.patches if side + 2 * search <= features.shape[-1]]
    side = fitting[_below(len(fitting), generator)]
    room = features.shape[-1] - side - 2 * search
    patches, windows = [], []
    for a, b in features:
        for _ in range(config.patches_per_pair):
            y, x = _below(room + 1, generator), _below(room + 1, generator)
            patches.append(a[:, y + search : y + search + side, x + search : x + search + side])
            windows.append(b[:, y : y + side + 2 * search, x : x + side + 2 * search])
    surface = correlation_surface(torch.stack(patches), windows=torch.stack(windows))
    width = 2 * search + 1
    logits = config.sharpness * surface.flatten(1)
    loss = -logits.log_softmax(dim=1)[:, width * search + search].mean()
    best = logits.argmax(dim=1)
    near = ((best // width - search).abs() <= 1) & ((best % width - search).abs() <= 1)
    return loss, near.float().mean()


def _draw_pairs(
    stacks: Sequence[Tensor], distances: Sequence[int], config: MetricTrainConfig, generator: torch.Generator
) -> Tensor:
    """Draw pairs `(batch, 2, crop, crop)` of normalised sections; place, distance, rotation and polarity are random."""
    pairs = []
    side = min(config.crop, *(n // SPACING * SPACING for stack in stacks for n in stack.shape[1:]))
    for _ in range(config.batch):
        stack = stacks[_below(len(stacks), generator)]
        distance = distances[_below(len(distances), generator)]
        z = _below(len(stack) - distance, generator)
        y, x = (_below(n - side + 1, generator) for n in stack.shape[1:])
        pair = stack[[z, z + distance], y : y + side, x : x + side]
        pair = torch.rot90(pair, _below(4, generator), dims=(1, 2))
        pair = pair.flip(1) if _below(2, generator) else pair
        pair = pair.flip(0) if _below(2, generator) else pair
        pairs.append(_vary_staining(-pair if _below(2, generator) else pair, noise=config.noise, generator=generator))
    return torch.stack(pairs)


def _vary_staining(pair: Tensor, *, noise: float, generator: torch.Generator) -> Tensor:
    """Give the two sections different contrast, tone and noise: sections are stained and imaged one by one."""
    gain, tone, grain = torch.rand(3, 2, 1, 1, generator=generator).unbind()
    toned = pair + (tone - 0.5) * 0.3 * (pair.square() - 1.0)
    return toned * (0.7 + 0.6 * gain) + noise * grain * torch.randn(pair.shape, generator=generator)


def _magnify(sections: Sequence[AnyArray], *, pixel_size: float, config: MetricTrainConfig) -> list[Tensor]:
    """Normalise the stack `(z, y, x)` at every pixel size at which it is large enough."""
    if not len(sections):
        return []
    images = torch.stack([torch.from_numpy(section.astype("float32")) for section in sections])
    stacks = []
    for scale in sorted({min(pixel_size / pixel, _MAX_MAGNIFICATION) for pixel in config.pixels}):
        if min(images.shape[1:]) * scale < _least_side(config):
            continue
        magnified = images
        if scale != 1.0:
            kind = "bicubic" if scale > 1 else "bilinear"
            magnified = interpolate(
                images[:, None], scale_factor=scale, mode=kind, align_corners=False, antialias=scale < 1
            )[:, 0]
        normalised = [
            normalise_contrast(image[None], valid=tissue_mask(image)[None], window=config.normalisation_window)[0]
            for image in magnified
        ]
        stacks.append(torch.stack(normalised))
    return stacks


def _least_side(config: MetricTrainConfig) -> int:
    """Compute the side, px, of an image in which the smallest patch can be searched at all shifts."""
    return SPACING * (min(config.patches) + 2 * config.search)


def _matched_share(
    model: MetricNetwork, stacks: Sequence[Tensor], distances: Sequence[int], config: MetricTrainConfig, *, seed: int
) -> dict[str, float]:
    """Measure the share of patches found to within one feature px, over 32 batches."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    with torch.inference_mode():
        drawn = (
            _match_patches(model, _draw_pairs(stacks, distances, config, generator).to(device), config, generator)
            for _ in range(32)
        )
        return {"found": round(float(torch.stack([near for _, near in drawn]).mean()), 4)}


def _metadata(
    config: MetricTrainConfig,
    seed: int,
    figures: dict[str, dict[str, float]],
    command: str,
    pixel_size: float,
    section_thickness: float,
    sections: int,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "width": config.width,
        "channels": config.channels,
        "normalisation": {"kind": "local_contrast", "window": config.normalisation_window},
        "training": {
            "seed": seed,
            "command": command,
            "pixel_size_nm": pixel_size,
            "section_thickness_nm": section_thickness,
            "sections": sections,
            "matching": figures,
            **config.model_dump(mode="json", exclude={"width", "channels", "normalisation_window"}),
        },
    }


def _below(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))
