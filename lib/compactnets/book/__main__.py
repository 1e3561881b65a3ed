"""python -m compactnets.book: the steps that the Makefile and the Snakefile call."""

import argparse
import logging
import re
import sys

from compactnets.book import pipeline, runs, smoke
from compactnets.profiles import PROFILES, current


class _CellLines(logging.Filter):
    """Turns papermill's "Executing Cell 7----" into "cell 7" and drops its other remarks."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if place := re.match(r"Executing Cell (\d+)-+", text):
            record.msg, record.args = f"cell {place[1]}", ()
            return True
        record.msg, record.args = text.strip(), ()
        noise = ("Ending Cell", "Input Notebook", "Output Notebook", "Executing notebook")
        return bool(record.msg) and not text.startswith(noise)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: done; 1: a notebook failed; 2: nothing could be started."""
    parser = argparse.ArgumentParser(prog="python -m compactnets.book", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("build", "run what is due, build the site"),
        ("run", "run what is due"),
        ("why", "say why notebooks are due"),
        ("verify", "check that all pages finished, on real data where there is any"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--profile", choices=PROFILES, default=current())
        if name != "verify":
            command.add_argument("slugs", nargs="*", help="notebooks; none: all")
        if name in ("build", "run"):
            command.add_argument("--force", action="store_true", help="run also what is done")
            command.add_argument("--executor", default="local", help="folder of workflow/profiles")
            command.add_argument("--cores", type=int)
            command.add_argument("--yes-without-gpu", action="store_true", dest="without_gpu")
    one = commands.add_parser("execute", help="run one notebook here and now (one job)")
    one.add_argument("slug")
    one.add_argument("--profile", choices=PROFILES, default=current())
    one.add_argument("--key", help="refuse if the sources have another key")
    one.add_argument("--threads", type=int)
    commands.add_parser("smoke", help="write notebooks at profile smoke for nbval")
    options = vars(parser.parse_args(arguments))
    try:
        return _COMMANDS[options.pop("command")](**options)
    except Exception as error:
        if not type(error).__module__.startswith("compactnets."):
            raise  # a defect of ours: show all of it
        print(f"error: {error}", file=sys.stderr)  # our own errors name the thing and the cure
        return 2


def _run(slugs: list[str], profile: str, **options: object) -> int:
    outcomes = pipeline.run(slugs, profile, **options)  # type: ignore[arg-type]
    pipeline.say(pipeline.summary(outcomes))
    return pipeline.finish(outcomes)


def _why(slugs: list[str], profile: str) -> int:
    for job in pipeline.plan(slugs, profile):
        reasons = runs.why(job.notebook, profile)
        print(f"{job.slug} ({profile}): {'up to date' if not reasons else ''}")
        for reason in reasons:
            print(f"  {reason}")
    return 0


def _verify(profile: str) -> int:
    from compactnets.book.verify import problems  # needs the data sets, and so torch

    found = problems(profile)
    print("\n".join(found) or "every page finished, on real data where there is any")
    return int(bool(found))


def _execute(slug: str, profile: str, key: str | None, threads: int | None) -> int:
    from compactnets.book.execute import RunFailed, execute  # papermill is not needed elsewhere

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_CellLines())
    try:
        folder = execute(slug, profile, key=key, threads=threads)
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{slug} ({profile}): {folder}", file=sys.stderr)
    return 0


def _smoke() -> int:
    for path in smoke.write_all():
        print(path)
    return 0


_COMMANDS = {
    "build": pipeline.build,
    "run": _run,
    "why": _why,
    "verify": _verify,
    "execute": _execute,
    "smoke": _smoke,
}

if __name__ == "__main__":
    sys.exit(main())
