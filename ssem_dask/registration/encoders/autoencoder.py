"""The convolutional autoencoder whose encoder gives the features of the founding method.

h = f(x), y = g(h) (Yoo et al. 2017, arXiv 1707.07833): the encoder has one block of convolution + ReLU at input
resolution, two at the next scale, two at the next, and a bottleneck; the decoder mirrors it with transposed
convolutions + ReLU. The paper gives neither channels nor kernels. Ours: 3x3 kernels; few channels, since the cost on a
CPU is that of moving them through memory; between scales the mean of 2x2 px, which keeps a feature's centre at the
centre of its pixels (C3) and aliases less than a maximum or a stride, hence gives better sub-pixel gradients; the last
layer of the decoder has no ReLU, because its target, a normalised image, has negative values.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad

Channels = tuple[int, int, int, int]
SPACING = 4


class Autoencoder(nn.Module):
    """Encoder f and decoder g.

    Args:
        channels: of the three scales, fine to coarse, and of the bottleneck.
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

    def encode(self, images: Tensor) -> Tensor:
        """Features `(n, c, ceil(y/4), ceil(x/4))` of normalised images `(n, y, x)`; differentiable in them."""
        down, right = (-images.shape[-2]) % SPACING, (-images.shape[-1]) % SPACING
        values = images[:, None]
        if down or right:
            values = pad(values, (0, right, 0, down), mode="replicate")
        features: Tensor = self.coarse(avg_pool2d(self.middle(avg_pool2d(self.fine(values), 2)), 2))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions `(n, y, x)` of normalised images whose sides are multiples of 4."""
        images_again: Tensor = self.decoder(self.encode(images))
        return images_again[:, 0]


def reconstruction_loss(model: Autoencoder, images: Tensor, *, decay: float) -> Tensor:
    """Eq. 3: Σ‖x - g(f(x))‖² + λ(Σ‖θ‖² + Σ‖φ‖²), divided by the number of pixels, so that λ does not depend on it."""
    error: Tensor = (images - model(images)).square().mean()
    weights = torch.stack([p.square().sum() for p in model.parameters() if p.ndim > 1]).sum()
    return error + decay * weights


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _transposed(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 3, padding=1)
