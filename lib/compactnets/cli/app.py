"""The command line: commands put together, and what becomes of an error."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import compactnets
from compactnets.cli import datasets, doctor, papers, running


class Commands(TyperGroup):
    """Turns an error that names its cure into one line on stderr and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") or not _is_users(error):
                raise
            typer.secho(f"error: {_message(error)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2) from None


def _is_users(error: Exception) -> bool:
    """Our own errors and those about values and files; anything else is a defect: show it all."""
    own = type(error).__module__.startswith("compactnets.")
    return own or isinstance(error, ValueError | FileNotFoundError | PermissionError)


def _message(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


app = typer.Typer(
    cls=Commands,
    help="Compact Networks: an executable book on making neural networks small and fast.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(compactnets.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Its number.")
    ] = False,
) -> None:
    """Options of every command; `debug` is read by Commands."""


app.command("papers")(papers.papers)
app.command("show")(papers.show)
app.command("run")(running.run)
app.command("record")(running.record)
app.command("doctor")(doctor.doctor)
app.add_typer(datasets.app, name="data", help="Data sets: list, find, verify, fetch.")
