"""Metric network: few features that locate a piece of tissue and depend on little else.

It is trained so that patches match themselves in the neighbouring sections (`train_metric`): it keeps structures that
persist from section to section and drops stain, noise and charging. It has 4 channels at a spacing of 4 px. The image
is normalised by its surroundings and averaged over 2x2 px; 3x3 convolutions follow, one of 4x4 with stride 2 (even, so
that a feature's centre is the centre of its pixels, C3) and a 1x1 projection.
"""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from ssem_dask.registration.encoders.weights_file import StoredWeights, TrainedWeights

FORMAT = "ssem_dask.metric/1"
SPACING = 4
MARGIN = 4
"""Features at the border of an image whose receptive field extends beyond it: 3, and one spare."""


class MetricNetwork(nn.Module):
    """Network from normalised images to features.

    Args:
        width: channels inside the network.
        channels: channels of the features.
    """

    def __init__(self, *, width: int, channels: int) -> None:
        super().__init__()
        self.width, self.channels = width, channels
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1),
        )

    def encode(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n c h w"]:
        """Encode normalised images to features of a quarter of their size, rounded up; differentiable."""
        down, right = (-images.shape[-2]) % SPACING, (-images.shape[-1]) % SPACING
        values = avg_pool2d(pad(images[:, None], (0, right, 0, down), mode="replicate"), 2)
        # Replicated beyond the border: zeros there would look like an edge that moves with the image.
        border = 2 * MARGIN
        padded = pad(values, (border, border, border, border), mode="replicate")
        features: Tensor = self._in_half(padded) if _without_gradient(padded) else self.layers(padded)
        return features[..., MARGIN:-MARGIN, MARGIN:-MARGIN]

    def _in_half(self, values: Tensor) -> Tensor:
        """Run the layers on a GPU in half precision, whose rounding is far below the noise of images.

        Channels are innermost, and each convolution is one kernel with its bias and ReLU.
        """
        values = values.half().contiguous(memory_format=torch.channels_last)
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            weight = layer.weight.half()
            bias = None if layer.bias is None else layer.bias.half()
            if layer is convolutions[-1]:
                return conv2d(values, weight, bias).float()
            if layer.in_channels % 8:  # too few for the fused kernel
                values = conv2d(values, weight, bias, layer.stride, layer.padding).relu_()
            else:
                assert not isinstance(layer.padding, str)
                values = torch.cudnn_convolution_relu(
                    values, weight, bias, layer.stride, layer.padding, layer.dilation, 1
                )
        return values


def _without_gradient(values: Tensor) -> bool:
    return values.is_cuda and not torch.is_grad_enabled()


MetricWeights: TypeAlias = TrainedWeights[MetricNetwork]


def build_metric(stored: StoredWeights) -> MetricWeights:
    """Build the network of stored weights.

    Raises:
        WeightsError: the weights are of another kind of network.
    """
    return stored.load(
        lambda metadata: MetricNetwork(width=int(metadata["width"]), channels=int(metadata["channels"])),
        kind=FORMAT,
        advice="weights that 'ssem-dask train --encoder metric' wrote",
    )


def initialise_metric(*, width: int, channels: int, generator: torch.Generator) -> MetricNetwork:
    """Make a network with He-normal weights drawn from `generator`, independent of the global random state."""
    model = MetricNetwork(width=width, channels=channels)
    for parameter in model.parameters():
        with torch.no_grad():
            if parameter.ndim > 1:
                parameter.normal_(0.0, (2.0 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.zero_()
    return model
