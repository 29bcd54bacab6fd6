"""Plot of a training's loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssem_dask.errors import OutputError

_WINDOWS = 50
"""The running mean covers the steps divided by this number."""


def draw_loss(losses: Sequence[float], *, title: str, picture: Path) -> None:
    """Plot the loss of every step, and its running mean.

    Args:
        losses: loss of each step, in order.
        title: title of the plot.
        picture: PNG to write.

    Raises:
        OutputError: the picture cannot be written.
    """
    import matplotlib as mpl  # slow to import, and no other command of the training needs it
    from matplotlib.figure import Figure

    values = np.asarray(losses, dtype=np.float64)
    span = max(1, len(values) // _WINDOWS)
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
            raise OutputError(f"{picture}: cannot be written ({error.strerror}); choose another path.") from error
