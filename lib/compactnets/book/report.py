"""What a build did and cost: the page in the book, and the tables in the terminal."""

from collections.abc import Mapping, Sequence

from compactnets.book import runs

Shown = Mapping[str, runs.Report | runs.Failure | None]

PAGE = """# Build report

Every page of the book shows one run of its notebook. A run is found by its *key*, a digest of the
code cells, of every module that they import, of the card, of the recorded results, of the data sets
at hand, of the packages' versions and of the profile: as long as none of them changes, the run is
taken as it is. Memory is the peak of the kernel and its children together.

"""


def report_page(shown: Shown) -> str:
    """MyST text of the report; it depends on the runs alone, not on when the book was built."""
    if not shown:
        return PAGE + "No notebook is written yet.\n"
    finished = [run for run in shown.values() if isinstance(run, runs.Report)]
    failed = [run for run in shown.values() if isinstance(run, runs.Failure)]
    lines = [
        PAGE,
        f"{len(finished)} of {len(shown)} pages finished, {len(failed)} failed; "
        f"{sum(run.wall_seconds for run in finished):.0f} s of run time in all.\n",
        "| page | profile | state | wall time (s) | peak memory (GB) | key |",
        "|---|---|---|---:|---:|---|",
    ]
    for slug, run in shown.items():
        if isinstance(run, runs.Report):
            state, memory = "finished", f"{run.peak_memory_mb / 1000:.1f}"
        elif run is None:
            lines.append(f"| {slug} | | not run | | | |")
            continue
        else:
            state, memory = f"failed: `{run.error}` in code cell {run.cell}", ""
        lines.append(
            f"| {slug} | {run.profile} | {state} | {run.wall_seconds:.0f} | {memory} "
            f"| `{run.key}` |"
        )
    return "\n".join(lines) + "\n"


def failure_table(failures: Sequence[runs.Failure]) -> str:
    """Notebook, profile, cell and error of each failed run, for the end of a terminal's output."""
    rows = [("notebook", "profile", "cell", "error")]
    for run in failures:
        message = run.message.split("\n")[0][:100]
        rows.append((run.slug, run.profile, str(run.cell or "-"), f"{run.error}: {message}"))
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, the first row underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
