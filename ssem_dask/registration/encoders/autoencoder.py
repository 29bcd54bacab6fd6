"""Convolutional autoencoder whose encoder gives the features of ssEMnet.

h = f(x), y = g(h) (Yoo et al. 2017, arXiv 1707.07833): the encoder has one block of convolution + ReLU at input
resolution, two at the next scale, two at the next, and a bottleneck; the decoder mirrors it with transposed
convolutions + ReLU. The paper gives neither channels nor kernels. This network has 3x3 kernels, and few channels, since
the cost on a CPU is that of moving them through memory. Between scales it takes the mean of 2x2 px: that keeps a
feature's centre at the centre of its pixels (C3) and aliases less than a maximum or a stride, hence gives better
sub-pixel gradients. The last layer of the decoder has no ReLU, because its target, a normalised image, has negative
values.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

Channels = tuple[int, int, int, int]
SPACING = 4


class Autoencoder(nn.Module):
    """Encoder f and decoder g.

    Args:
        channels: number of channels of the three scales, fine to coarse, and of the bottleneck.
    """

    def __init__(self, channels: Channels) -> None:
        super().__init__()
        a, b, c, code = channels
        self.channels = channels
        self.fine = nn.Sequential(_conv(1, a), nn.ReLU())
        self.middle = nn.Sequential(_conv(a, b), nn.ReLU(), _conv(b, b), nn.ReLU())
        self.coarse = nn.Sequential(_conv(b, c), nn.ReLU(), _conv(c, c), nn.ReLU(), _conv(c, code), nn.ReLU())
        self.decoder = nn.Sequential(
            _transposed(code, c),
            nn.ReLU(),
            _transposed(c, c),
            nn.ReLU(),
            nn.ConvTranspose2d(c, b, 4, stride=2, padding=1),
            nn.ReLU(),
            _transposed(b, b),
            nn.ReLU(),
            nn.ConvTranspose2d(b, a, 4, stride=2, padding=1),
            nn.ReLU(),
            _transposed(a, 1),
        )

    def encode(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n c h w"]:
        """Encode normalised images to features of a quarter of their size, rounded up; differentiable."""
        down, right = (-images.shape[-2]) % SPACING, (-images.shape[-1]) % SPACING
        values = images[:, None]
        if down or right:
            values = pad(values, (0, right, 0, down), mode="replicate")
        features: Tensor = self.coarse(avg_pool2d(self.middle(avg_pool2d(self.fine(values), 2)), 2))
        return features

    def forward(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
        """Reconstruct normalised images whose sides are multiples of 4."""
        reconstructed: Tensor = self.decoder(self.encode(images))
        return reconstructed[:, 0]


def reconstruction_loss(model: Autoencoder, images: Float[Tensor, "n y x"], *, decay: float) -> Float[Tensor, ""]:
    """Compute eq. 3, Σ‖x - g(f(x))‖² + λ(Σ‖θ‖² + Σ‖φ‖²), divided by the number of pixels: λ does not depend on it."""
    error: Tensor = (images - model(images)).square().mean()
    weights = torch.stack([p.square().sum() for p in model.parameters() if p.ndim > 1]).sum()
    return error + decay * weights


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, padding=1)
