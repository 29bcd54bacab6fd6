"""The commands of `ssem-dask`.

Exit codes: 0 everything is done; 1 some chunks failed (named), or the cluster was lost; 2 wrong usage, configuration or
input, in one sentence; 130 interrupted. A `SsemDaskError` is something that the user can fix and shows no traceback;
anything else is a bug and shows one.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ssem_dask import __version__
from ssem_dask.cli import append_command as append
from ssem_dask.cli import certs_command as certs
from ssem_dask.cli import compare_command as compare
from ssem_dask.cli import data_commands as data
from ssem_dask.cli import demo_command as demo
from ssem_dask.cli import evaluate_command as evaluate
from ssem_dask.cli import export_command as export
from ssem_dask.cli import fix_command as fix
from ssem_dask.cli import points_command as points
from ssem_dask.cli import report_command as report
from ssem_dask.cli import rerun_command as rerun
from ssem_dask.cli import run_commands as run
from ssem_dask.cli import view_command as view
from ssem_dask.cli import warp_command as warp
from ssem_dask.cli.console import show_error
from ssem_dask.cli.main import EXIT_INTERRUPTED, INTERRUPTED
from ssem_dask.errors import ClusterError, IncompleteError, SsemDaskError
from ssem_dask.shown import without_secrets

STARTS_AGAIN = "Interrupted. Nothing is kept; run the same command again to start again."
_NOT_RESUMED = ("train", "simulate", "evaluate", "report", "compare", "demo")


class _Commands(TyperGroup):
    """The group of commands; turns a user's mistake into one sentence and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The border for all commands: none of them ever sees a password or a signature.
        return super().parse_args(ctx, [without_secrets(word) for word in args])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ClusterError, IncompleteError) as error:
            show_error(str(error))
            raise typer.Exit(1) from error
        except MemoryError as error:
            show_error(f"Not enough memory ({error}); use smaller chunks or windows, or a larger machine.")
            raise typer.Exit(2) from error
        except SsemDaskError as error:
            show_error(str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            message = STARTS_AGAIN if ctx.invoked_subcommand in _NOT_RESUMED else INTERRUPTED
            show_error(str(error) or message)
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Align serial-section electron microscopy volumes.\n\n"
        "New here? `ssem-dask demo` shows everything on a synthetic volume in a few minutes. Then `ssem-dask import` "
        "your images, `ssem-dask align` them, and read the result from `ssem-dask status`."
    ),
)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"ssem-dask {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options of the bare command."""


app.command("demo", rich_help_panel="Start here")(demo.demo)
app.command("import", rich_help_panel="Align")(data.import_)
app.command("align", rich_help_panel="Align")(run.align)
app.command("plan", rich_help_panel="Align")(run.plan)
app.command("run", rich_help_panel="Align")(run.run)
app.command("append", rich_help_panel="Align")(append.append)
app.command("status", rich_help_panel="Align")(run.status)
app.command("rerun", rich_help_panel="Align")(rerun.rerun)
app.command("verify", rich_help_panel="Align")(rerun.verify)
app.command("report", rich_help_panel="Inspect and use an alignment")(report.report)
app.command("compare", rich_help_panel="Inspect and use an alignment")(compare.compare)
app.command("view", rich_help_panel="Inspect and use an alignment")(view.view)
app.command("fix", rich_help_panel="Inspect and use an alignment")(fix.fix)
app.command("warp", rich_help_panel="Inspect and use an alignment")(warp.warp)
app.command("points", rich_help_panel="Inspect and use an alignment")(points.points)
app.command("export", rich_help_panel="Inspect and use an alignment")(export.export)
app.command("certs", rich_help_panel="Clusters")(certs.certs)
app.command("train", rich_help_panel="Measure and improve")(data.train)
app.command("simulate", rich_help_panel="Measure and improve")(data.simulate)
app.command("evaluate", rich_help_panel="Measure and improve")(evaluate.evaluate)
