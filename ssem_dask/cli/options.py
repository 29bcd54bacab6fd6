"""Options that several commands share."""

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="The run (`OUT.zarr`).")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="Place of the source volume: if it was moved, or if its URL has a password or a signature, which no run "
        "keeps.",
        show_default=False,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and progress as JSON lines on stderr.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what tasks remarked, too.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        envvar="SSEM_DASK_CLUSTER",
        help="Where tasks run: serial, local, local-gpu, slurm, the address of a Dask scheduler, or a TOML file with a "
        "[cluster] table. Default: local, unless the configuration of the run says otherwise.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Number of workers to start; number of GPUs with local-gpu. Default: one per core or GPU of this machine; "
        "with slurm, those of one job.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=0, max=65535, help="Port to listen on; 0 takes a free one. Default: a fixed one for each run."
    ),
]
Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        help="Address to listen on. Another than loopback is for containers whose port is published on the loopback "
        "of their machine: browsers must ask for 127.0.0.1 or localhost all the same.",
    ),
]
PrintUrl = Annotated[
    bool, typer.Option("--print-url", help="Print the address and serve, without a browser; for use over ssh.")
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Continue after a stage in which chunks failed. The output is then incomplete, and the exit code 1.",
    ),
]
PixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size",
        help="Pixel size in y and x, nm; overrides the source's metadata, required if it has none.",
        show_default=False,
    ),
]
SectionThickness = Annotated[
    float | None,
    typer.Option(
        "--section-thickness",
        help="Section thickness, nm; overrides the source's metadata, required if it has none.",
        show_default=False,
    ),
]
Channel = Annotated[
    str | None,
    typer.Option(
        "--channel",
        help="Channel (detector, stain) of the source to register, by number from 0 or by name; all channels are "
        "warped. Default: the one chosen at import.",
        show_default=False,
    ),
]


def channel_choice(text: str | None) -> int | str | None:
    """Return the channel that an option gives: its number, or its name."""
    return int(text) if text is not None and text.strip().isdecimal() else text


FixesFile = Annotated[
    str | None,
    typer.Option(
        "--fixes",
        help="File of fixes (`fixes.toml`): what you know about sections, which the run then follows. It is kept in "
        "the run; without this option, the fixes that the run has stay.",
        show_default=False,
    ),
]
FailOn = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        help="Kinds of spoilt sections with which the exit code is 1, separated by commas, or `any`: blank, noise, "
        "foreign, unplaced, turned, mirrored, inverted, scaled, shifted, duplicate, out_of_order, fold, crack, seam, "
        "torn, partly_empty, dirt, blurred, faint.",
        show_default=False,
    ),
]
