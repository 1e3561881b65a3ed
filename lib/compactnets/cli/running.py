"""compactnets run, compactnets record: notebooks through the pipeline, records into the book."""

from pathlib import Path
from typing import Annotated

import typer

from compactnets import profiles
from compactnets.study import card as cards
from compactnets.study import recording

Profile = Annotated[str, typer.Option(help=f"How large: {', '.join(profiles.PROFILES)}.")]


def run(
    slugs: Annotated[list[str] | None, typer.Argument(help="Which papers.")] = None,
    profile: Profile = "quick",
    everything: Annotated[bool, typer.Option("--all", help="Every written notebook.")] = False,
    force: Annotated[
        bool, typer.Option(help="Also what has been run and has not changed.")
    ] = False,
    executor: Annotated[str, typer.Option(help="A folder of workflow/profiles.")] = "local",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores for all notebooks.")] = None,
    without_gpu: Annotated[
        bool,
        typer.Option("--without-gpu", "--yes-without-gpu", help="Accept a CPU at profile full."),
    ] = False,
) -> None:
    """Runs notebooks whose code, data or modules have changed; exit status 1 if one fails."""
    profiles.check(profile)
    if bool(slugs) == everything:
        raise ValueError("say which papers to run, or --all (one of the two)")
    for slug in slugs or []:
        if cards.load(slug).status == "planned":
            raise ValueError(f"{slug} has no notebook yet: its card says planned")
    from compactnets.book import pipeline  # needs the extra "book"

    outcomes = pipeline.run(
        slugs or [],
        profile,
        force=force,
        executor=executor,
        cores=cores,
        without_gpu=without_gpu,
    )
    pipeline.say(pipeline.summary(outcomes))
    raise typer.Exit(pipeline.finish(outcomes))


def record(
    slug: Annotated[str, typer.Argument(help="Which paper.")],
    profile: Profile = "standard",
    source: Annotated[
        Path | None, typer.Option("--from", help="The record's file; default: the newest run's.")
    ] = None,
    allow_dirty: Annotated[
        bool, typer.Option(help="Also a run on code that was not committed.")
    ] = False,
) -> None:
    """Moves a finished run's record into data/results, where the book shows it."""
    typer.echo(recording.promote(slug, profile, source, allow_dirty=allow_dirty))
