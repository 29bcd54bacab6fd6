"""Training of the autoencoder.

The metadata of the file (`weights_file`) are format, channels, normalisation, training. Same sections, config and seed
give the same weights on one machine and thread count.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import interpolate

from ssem_dask.errors import SourceError
from ssem_dask.registration.encoders.autoencoder import SPACING, Autoencoder, Channels, reconstruction_loss
from ssem_dask.registration.encoders.local_contrast import normalise_contrast
from ssem_dask.registration.encoders.stored_autoencoder import FORMAT, AutoencoderWeights
from ssem_dask.types import AnyArray, ConfigBase

PatchSampler = Callable[[int, torch.Generator], Tensor]
"""(count, generator) -> `(count, y, x)` float32 normalised patches."""
Progress = Callable[[int, float], None]
"""(steps done, loss of the last one) -> None."""


class TrainConfig(ConfigBase):
    """How the autoencoder is trained."""

    channels: Channels = (8, 16, 24, 8)
    """Channels of the three scales, fine to coarse, and of the bottleneck."""
    normalisation_window: int = Field(default=64, ge=8)
    """Side, in px, of the surroundings that normalise the contrast."""
    patch: int = Field(default=64, ge=16, multiple_of=SPACING)
    """Side of a training patch, px."""
    batch: int = Field(default=16, ge=1)
    """Patches per step."""
    steps: int = Field(default=1500, ge=1)
    """Steps of Adam."""
    learning_rate: float = Field(default=4e-3, gt=0)
    """Adam's rate at the start; it falls to 0 along a cosine."""
    decay: float = Field(default=1e-4, ge=0)
    """λ of eq. 3, weight of the squared network weights."""
    scales: tuple[float, ...] = (2.0, 1.0, 0.5)
    """Magnifications of the training sections: registration encodes several levels of a pyramid."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the sections, the last ones, kept back to measure the reconstruction."""


def train_encoder(
    sections: Iterable[AnyArray],
    *,
    pixel_size: float,
    command: str,
    config: TrainConfig,
    seed: int,
    device: torch.device | str,
    progress: Progress,
) -> AutoencoderWeights:
    """Train on whole sections: the body of `ssem-dask train`.

    Args:
        sections: images `(y, x)` of any real dtype; constant surroundings count as empty.
        pixel_size: nm per pixel of the sections, for the record.
        command: the command line, for the record.
        config: training parameters.
        seed: seed of the initial weights and of the patches.
        device: torch device.
        progress: called after every step.

    Raises:
        SourceError: no section is large enough for a patch.
    """
    images = [torch.from_numpy(section.astype("float32")) for section in sections]
    kept_back = min(round(len(images) * config.held_out), len(images) - 1)
    train_set, test_set = images[: len(images) - kept_back], images[len(images) - kept_back :]
    sampler = section_patches(train_set, config=config)
    weights = train_autoencoder(sampler, config=config, seed=seed, device=device, progress=progress)
    record = {
        "pixel_size_nm": pixel_size,
        "sections": len(train_set),
        "command": command,
        "reconstruction": {
            "train": reconstruction_figures(weights.model, sampler, seed=seed + 1),
            "held_out": reconstruction_figures(
                weights.model, section_patches(test_set or train_set, config=config), seed=seed + 1
            ),
        },
    }
    return AutoencoderWeights(
        weights.model, {**weights.metadata, "training": {**weights.metadata["training"], **record}}
    )


def train_autoencoder(
    sample_patches: PatchSampler, *, config: TrainConfig, seed: int, device: torch.device | str, progress: Progress
) -> AutoencoderWeights:
    """Minimise eq. 3 over patches.

    Args:
        sample_patches: sampler of normalised patches.
        config: training parameters.
        seed: seed of the initial weights and of the patches.
        device: torch device.
        progress: called after every step.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _initialise(config.channels, generator).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss() -> Tensor:
        patches = sample_patches(config.batch, generator).to(device)
        return reconstruction_loss(model, patches, decay=config.decay)

    minimise_loss(model, loss, steps=config.steps, learning_rate=config.learning_rate, progress=progress)
    metadata = {
        "format": FORMAT,
        "channels": list(config.channels),
        "normalisation": {"kind": "local_contrast", "window": config.normalisation_window},
        "training": {"seed": seed, **config.model_dump(mode="json", exclude={"channels", "normalisation_window"})},
    }
    return AutoencoderWeights(model, metadata)


def minimise_loss(
    model: Module, loss: Callable[[], Tensor], *, steps: int, learning_rate: float, progress: Progress
) -> None:
    """Train a network by Adam (Kingma and Ba 2015), with a learning rate that falls to 0 along a cosine.

    Args:
        model: network; afterwards it is in evaluation mode, without gradients.
        loss: draws a sample and computes its loss.
        steps: steps of Adam.
        learning_rate: rate at the start.
        progress: called after every step.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(step + 1, float(value.detach()))
    model.eval().requires_grad_(False)


def section_patches(sections: Sequence[Tensor], *, config: TrainConfig) -> PatchSampler:
    """Make a sampler of normalised patches at random positions, scales, rotations by 90°, flips, contrasts, polarities.

    Raises:
        SourceError: no section is large enough for a patch.
    """
    # Magnified sections are normalised as whole images, as in registration.
    images = [
        normalise_contrast(
            image[None], valid=torch.ones_like(image[None], dtype=torch.bool), window=config.normalisation_window
        )[0]
        for section in sections
        for image in (_magnify(section, scale) for scale in config.scales)
        if min(image.shape) >= config.patch
    ]
    if not images:
        raise SourceError(
            f"train: none of the {len(sections)} sections is large enough for a patch of {config.patch} px at any of "
            f"the scales {config.scales}; give larger sections or a smaller patch."
        )

    def sample(count: int, generator: torch.Generator) -> Tensor:
        return torch.stack([_patch(images, config.patch, generator) for _ in range(count)])

    return sample


def reconstruction_figures(model: Autoencoder, sample_patches: PatchSampler, *, seed: int) -> dict[str, float]:
    """Measure the mean squared error over 256 patches, relative to their variance, and its complement r²."""
    with torch.inference_mode():
        patches = sample_patches(256, torch.Generator().manual_seed(seed)).to(next(model.parameters()).device)
        error = float((patches - model(patches)).double().square().mean())
        variance = float(patches.double().var())
    return {"relative_squared_error": round(error / variance, 4), "r2": round(1 - error / variance, 4)}


def _initialise(channels: Channels, generator: torch.Generator) -> Autoencoder:
    """Make a network with He-normal weights drawn from `generator`, independent of the global random state."""
    model = Autoencoder(channels)
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                parameter.normal_(0.0, (2.0 / fan) ** 0.5, generator=generator)
            else:
                parameter.zero_()
    return model


def _magnify(section: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return section
    large = interpolate(
        section[None, None], scale_factor=scale, mode="bilinear", align_corners=False, antialias=scale < 1
    )
    return large[0, 0]


def _patch(images: Sequence[Tensor], side: int, generator: torch.Generator) -> Tensor:
    def random_below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    image = images[random_below(len(images))]
    y, x = random_below(image.shape[0] - side + 1), random_below(image.shape[1] - side + 1)
    patch = torch.rot90(image[y : y + side, x : x + side], random_below(4))
    if random_below(2):
        patch = patch.flip(0)
    # Some volumes are inverted, and contrast differs: the code must be valid for all of them.
    contrast = 0.7 + 0.6 * float(torch.rand((), generator=generator))
    return patch * (-contrast if random_below(2) else contrast)
