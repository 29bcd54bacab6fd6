"""Make the figures of docs/how-it-works.md: `make pictures`.

One structure, followed through 60 sections, in one dimension: how it runs in the tissue, where it appears in the
sections as they were imaged, where it is if neighbours are made to match, and where it is if distortion and natural
motion are separated by how they change from section to section.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
_SECTIONS, _MOTION_PX, _LENGTH, _DISTORTION_PX, _SEED = 60, 30.0, 10.0, 6.0, 7


def main() -> None:
    """Draw the figure."""
    rng = np.random.default_rng(_SEED)
    z = np.arange(_SECTIONS)
    apart = np.abs(z[:, None] - z)
    # Natural motion is smooth along z, distortion is another one in each section.
    natural = _MOTION_PX**2 * (1 + apart / _LENGTH) * np.exp(-apart / _LENGTH)
    tissue = np.linalg.cholesky(natural + 1e-6 * np.eye(_SECTIONS)) @ rng.standard_normal(_SECTIONS)
    imaged = tissue + rng.normal(0, _DISTORTION_PX, _SECTIONS)
    separated = natural @ np.linalg.solve(natural + _DISTORTION_PX**2 * np.eye(_SECTIONS), imaged)
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    curves = (
        ("As imaged", imaged, "tab:red"),
        ("Neighbours made to match", np.full(_SECTIONS, imaged.mean()), "tab:orange"),
        ("Distortion separated", separated, "tab:blue"),
    )
    for axes, (title, places, colour) in zip(panels, curves, strict=True):
        axes.plot(z, tissue, color="0.6", linewidth=4, label="in the tissue")
        axes.plot(z, places, color=colour, marker=".", markersize=4, linewidth=1.2, label=title.lower())
        rms = float(np.sqrt(np.mean((places - tissue) ** 2)))
        axes.set_title(f"{title}: error {rms:.1f} px", fontsize=10)
        axes.set_xlabel("section")
        axes.legend(fontsize=8, loc="best")
    panels[0].set_ylabel("place of one neurite, px")
    figure.savefig(HERE / "separation.png", dpi=110)


if __name__ == "__main__":
    main()
