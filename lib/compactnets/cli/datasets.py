"""compactnets data list|find|verify|fetch."""

from typing import Annotated

import typer

from compactnets import paths
from compactnets.study.display import Grid

app = typer.Typer(no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(help="Data sets; none: all that are here.")]


@app.command("list")
def list_() -> None:
    """Lists the data sets of the registry and where each was found."""
    from compactnets import data  # needs torch, which takes seconds

    grid = Grid("Data sets", ["name", "what", "license", "size", "found in"])
    for one in data.datasets():
        found = data.find(one.name)
        what = f"{one.title}: {one.items}"
        size = f"{one.bytes / 1e6:.0f} MB"
        grid.rows.append([one.name, what, one.license, size, found or "–"])
    grid.below.append(f"looked for in: {', '.join(map(str, paths.data_dirs()))}")
    typer.echo(grid.shown().plain)


@app.command()
def find(name: Annotated[str, typer.Argument(help="A data set of the registry.")]) -> None:
    """Prints the folder of a data set; exit status 1 and the cure if it is not here."""
    from compactnets.data import registry

    try:
        typer.echo(registry.locate(name))
    except registry.DataMissing as missing:
        typer.echo(str(missing), err=True)
        raise typer.Exit(1) from None


@app.command()
def verify(
    names: Names = None,
    again: Annotated[bool, typer.Option(help="Also files that were checked before.")] = False,
) -> None:
    """Compares the files of data sets with their checksums; changes nothing."""
    from compactnets import data

    chosen = names or [one.name for one in data.datasets() if data.find(one.name)]
    if not chosen:
        typer.echo("no data set is here: see `compactnets data list`")
    wrong = 0
    for name in chosen:
        try:
            done = data.verify(name, again=again)
        except data.ChecksumError as error:
            typer.echo(f"{name}: DAMAGED: {error}", err=True)
            wrong += 1
            continue
        rest = f", no sum known for {', '.join(done.unchecked)}" if done.unchecked else ""
        typer.echo(f"{name}: {done.checked} sums agree in {done.root}{rest}")
    raise typer.Exit(2 if wrong else 0)


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="Data sets to download.")]) -> None:
    """Downloads data sets, checks and unpacks them; goes on where it was broken off."""
    from compactnets import data
    from compactnets.data import registry

    for name in names:  # a misspelt name shows before a long download starts
        registry.entry(name)
    for name in names:
        typer.echo(f"{name}: {data.fetch(name)}")
