"""Runs one notebook and stores the result under its key, whole or not at all."""

import copy
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError

from compactnets import paths
from compactnets.book import keys, notebook, resources, runs
from compactnets.book.notebook import Notebook, NotebookError
from compactnets.book.tidy import tidy, without_places
from compactnets.profiles import check

log = logging.getLogger("compactnets.book")


class RunFailed(RuntimeError):
    """A notebook that raised; `failure` says where, the notebook so far lies in `folder`."""

    def __init__(self, failure: runs.Failure, folder: Path) -> None:
        super().__init__(
            f"{failure.slug} ({failure.profile}) failed in code cell {failure.cell}: "
            f"{failure.error}: {failure.message}\nThe notebook with its traceback: "
            f"{folder / 'failed.ipynb'}"
        )
        self.failure, self.folder = failure, folder


class StaleKey(RuntimeError):
    """The sources changed between planning and running."""


def execute(slug: str, profile: str, *, key: str | None = None, threads: int | None = None) -> Path:
    """Runs a notebook unless its present state has been run; returns the run's folder.

    `key` is the one the plan was made with: StaleKey if the sources have changed since. RunFailed
    if a cell raises, NotReady if the disk is full. Safe to call twice at the same time: the second
    waits for the first and takes its result.
    """
    source = notebook.find(slug)
    keys.forget()
    parts = keys.components(source, check(profile))
    current = keys.digest(parts)
    if key is not None and key != current:
        raise StaleKey(f"{slug}: the sources changed after the run was planned; start again")
    need = resources.of(source, profile)
    target = runs.folder(slug, profile, current)
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / f".{current}.lock"):
        if runs.is_done(slug, profile, current):
            return target
        for left in target.parent.glob(f".{current}.run-*"):  # of a killed run: we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        resources.check_disk(need.disk_mb)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{current}.run-"))
        try:
            _execute_in(scratch, source, profile, current, parts, threads or need.threads)
            _publish(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(runs.failed_folder(slug, profile, current), ignore_errors=True)
    runs.prune(slug, profile)
    return target


def _execute_in(
    scratch: Path, source: Notebook, profile: str, key: str, parts: keys.Components, threads: int
) -> None:
    """Fills the scratch folder with a finished run; RunFailed once the failure is stored."""
    given = source.with_profile(profile)
    nbformat.write(given, scratch / "input.ipynb")
    clock, error = time.monotonic(), None
    with PeakMemory() as peak, _kernel_environment(scratch, source, profile, key, threads):
        try:
            _papermill(scratch, source)
            _check_record(scratch, source, profile)
        except Exception as raised:  # whatever stops a notebook is reported the same way
            error = raised
    seconds = round(time.monotonic() - clock, 2)
    done: Any = _read_executed(scratch, given)
    if error is not None:
        raise _store_failure(error, done, source, profile, key, seconds) from None
    nbformat.write(done, scratch / "notebook.ipynb")
    (scratch / "input.ipynb").unlink()
    shutil.rmtree(scratch / "jupyter")
    fresh = Notebook(source.path)
    keys.forget()
    changed = keys.differences(parts, keys.components(fresh, profile))
    if changed:
        log.warning("%s: changed while it ran: %s", source.slug, "; ".join(changed))
    report = runs.Report(
        slug=source.slug,
        profile=profile,
        key=key,
        finished=_now(),
        wall_seconds=seconds,
        peak_memory_mb=round(peak.bytes / 2**20),
        code_cells=len(source.code_cells),
        threads=threads,
        components=parts,
        changed_while_running=changed,
    )
    runs.write(report, scratch / "report.json")


def _papermill(scratch: Path, source: Notebook) -> None:
    papermill.execute_notebook(
        scratch / "input.ipynb",
        scratch / "notebook.ipynb",
        kernel_name="python3",
        cwd=source.path.parent,
        log_output=True,
        progress_bar=False,
        start_timeout=300,
    )


@contextmanager
def _kernel_environment(
    scratch: Path, source: Notebook, profile: str, key: str, threads: int
) -> Iterator[None]:
    """Sets what the kernel inherits: who it is, its threads, and this very interpreter.

    A kernel description in the scratch folder names sys.executable; it comes before any other on
    Jupyter's path, so that a python3 kernel of the user's account is not taken by mistake.
    """
    spec = scratch / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    description = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(description), encoding="utf-8")
    lib = paths.project_root() / "lib"
    changes = {
        "COMPACTNETS_HOME": str(paths.project_root()),
        "COMPACTNETS_RECORD": str(scratch / "record.json"),
        "COMPACTNETS_PROFILE": profile,
        "COMPACTNETS_RUN_KEY": key,
        "JUPYTER_PATH": os.pathsep.join(
            [str(scratch / "jupyter"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
        ),
        "PYTHONPATH": os.pathsep.join([str(lib), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TQDM_DISABLE": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_record(scratch: Path, source: Notebook, profile: str) -> None:
    """A page with a paper's card must have written a record of itself at this profile.

    Study.finish has checked the schema; reading it with the schema here would load torch.
    """
    if not (paths.papers_dir() / f"{source.slug}.yml").exists():
        return
    path = scratch / "record.json"
    if not path.exists():
        raise NotebookError("no record was written: the last code cell has to be study.finish()")
    found = json.loads(path.read_text(encoding="utf-8"))
    if (found["slug"], found["profile"]) != (source.slug, profile):
        raise NotebookError(
            f"the record is of {found['slug']} at {found['profile']}, not of {source.slug} at "
            f"{profile}: does Study(...) get profile=profile?"
        )


def _read_executed(scratch: Path, given: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What papermill has stored so far, in stable form; the bare input if there is nothing."""
    path = scratch / "notebook.ipynb"
    node: Any = nbformat.read(path, as_version=4) if path.exists() else copy.deepcopy(given)
    return tidy(node, given)


def _store_failure(
    error: Exception, done: Any, source: Notebook, profile: str, key: str, seconds: float
) -> RunFailed:
    """Keeps the notebook with its traceback where no one takes it for a success."""
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    place = _failed_cell(cells, died=isinstance(error, DeadKernelError))
    name = getattr(error, "ename", type(error).__name__)
    message = str(getattr(error, "evalue", error)).strip() or name
    failure = runs.Failure(
        slug=source.slug,
        profile=profile,
        key=key,
        finished=_now(),
        wall_seconds=seconds,
        cell=place,
        source=cells[place - 1].source.strip().split("\n")[0] if place else "",
        error=name,
        message=without_places(message),
    )
    folder = runs.failed_folder(source.slug, profile, key)
    with paths.write_atomically(folder / "failed.ipynb") as temporary:
        nbformat.write(done, temporary)
    runs.write(failure, folder / "failure.json")
    return RunFailed(failure, folder)


def _failed_cell(cells: list[Any], died: bool) -> int:
    """Number, from 1, of the code cell that raised, or in which the kernel died.

    0 if no cell is to blame: the kernel did not start, or the record was bad after the last cell.
    """
    started = 0
    for number, cell in enumerate(cells, start=1):
        if any(output.output_type == "error" for output in cell.outputs):
            return number
        if cell.execution_count is not None:
            started = number
    return started if died else 0


def _publish(scratch: Path, target: Path) -> None:
    """Gives a finished run its name in one step; an empty folder of that name gives way."""
    scratch.chmod(0o755)
    if target.exists():  # left by a scheduler that makes its outputs' folders, or a broken one
        shutil.rmtree(target)
    scratch.rename(target)


class PeakMemory:
    """Context that samples the resident memory of all child processes; `bytes` is the peak sum."""

    def __init__(self, interval: float = 0.2) -> None:
        self.bytes = 0
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self._interval):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self.bytes = max(self.bytes, total)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
