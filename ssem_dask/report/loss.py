"""A picture of the loss of a training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ssem_dask.errors import OutputError

_SMOOTHED = 50
"""The bold line is the mean over this share (1 / n) of the steps."""


def draw_loss(losses: Sequence[float], *, title: str, picture: Path) -> None:
    """Draw the loss of every step, and its running mean.

    Args:
        losses: of the steps, in order.
        title: above the picture.
        picture: PNG to write.

    Raises:
        OutputError: the picture cannot be written.
    """
    values = np.asarray(losses, dtype=np.float64)
    span = max(1, len(values) // _SMOOTHED)
    mean = np.convolve(values, np.full(span, 1.0 / span), mode="valid")
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        axis.plot(np.arange(1, len(values) + 1), values, color="0.8", linewidth=0.8)
        axis.plot(np.arange(len(mean)) + (span + 1) / 2, mean, color="tab:blue")
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
        try:
            figure.savefig(picture, dpi=130)
        except OSError as error:
            raise OutputError(f"{picture}: cannot be written ({error.strerror}); give another place.") from error
