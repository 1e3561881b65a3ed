"""One run: whole or not at all, equal from one build to the next, honest about failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from compactnets import paths
from compactnets.book import execute as execution
from compactnets.book import keys, notebook, resources, runs
from compactnets.book.execute import RunFailed, StaleKey, execute
from compactnets.book.resources import NotReady
from compactnets.book.tidy import tidy, without_places
from pipeline_toy import ToyBook

NOISY = """import sys, time, itertools
print(object(), __import__("os").getpid() > 0)
for step in range(3):
    print(step, flush=True)
    print("to stderr", step, file=sys.stderr, flush=True)
from tqdm.auto import tqdm
list(tqdm(range(3)))
print(f"\\r 33%|###   | 1/3 [00:00<00:01, 2.00it/s]", file=sys.stderr)
import pandas as pd
pd.DataFrame({"a": [1]}).style"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return ToyBook(tmp_path, monkeypatch)


def read(path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def test_a_run_has_its_notebook_its_report_and_two_runs_of_one_state_are_equal(toy):
    toy.page("left", NOISY, "import sys; sys.executable, profile")
    first = execute("left", "smoke", threads=1)
    report = runs.report("left", "smoke", first.name)
    assert report is not None
    assert report.code_cells == 3 and report.threads == 1 and report.peak_memory_mb > 10
    text = (first / "notebook.ipynb").read_bytes()
    assert sorted(p.name for p in first.iterdir()) == ["notebook.ipynb", "report.json"]
    assert execute("left", "smoke") == first  # found, not run again
    assert runs.report("left", "smoke", first.name) == report
    shutil.rmtree(first)
    assert execute("left", "smoke") == first
    assert (first / "notebook.ipynb").read_bytes() == text

    done = read(first / "notebook.ipynb")
    parameters, noisy, last = (cell for cell in done.cells if cell.cell_type == "code")
    assert parameters.source == 'profile = "smoke"  # how large'
    assert sys.executable in last.outputs[0]["data"]["text/plain"]  # this interpreter, no other
    assert "papermill" not in json.dumps(done) and "0x..." in noisy.outputs[0]["text"]
    streams = [(o.name, o.text) for o in noisy.outputs if o.output_type == "stream"]
    assert [name for name, _ in streams] == ["stdout", "stderr"]
    assert "%|" not in json.dumps(streams)


def test_a_failure_keeps_the_traceback_and_is_not_taken_for_a_success(toy):
    path = toy.page("left", "x = 1", "print('so far')\nraise KeyError('nothing here')", "x = 3")
    with pytest.raises(RunFailed, match=r"left \(smoke\) failed in code cell 3: KeyError"):
        execute("left", "smoke")
    key = keys.key(notebook.find("left"), "smoke")
    assert not runs.is_done("left", "smoke", key)
    failure = runs.failure("left", "smoke", key)
    assert failure is not None
    assert (failure.cell, failure.source, failure.error) == (3, "print('so far')", "KeyError")
    kept = read(runs.failed_folder("left", "smoke", key) / "failed.ipynb")
    cells = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [o.output_type for o in cells[2].outputs] == ["stream", "error"]
    assert len(cells) == 4 and not cells[3].outputs
    assert not list(runs.runs_dir().rglob("*.ipynb"))

    path.write_text(path.read_text().replace("raise KeyError('nothing here')", "pass"))
    assert runs.is_done("left", "smoke", execute("left", "smoke").name)


def test_a_kernel_that_dies_is_a_failure_with_the_cell_that_killed_it(toy):
    # The pause lets the reply to the cell before get through: a dead kernel answers for nobody.
    die = "import os, signal, time; time.sleep(2); os.kill(os.getpid(), signal.SIGKILL)"
    toy.page("left", "x = 1", die, "x = 2")
    with pytest.raises(RunFailed) as caught:
        execute("left", "smoke")
    assert caught.value.failure.error == "DeadKernelError"
    assert caught.value.failure.cell == 3


def test_a_page_with_a_card_has_to_write_its_own_record(toy):
    (toy.root / "data" / "papers" / "left.yml").write_text("slug: left\n")
    with pytest.raises(RunFailed, match=r"study\.finish"):
        execute("left", "smoke")
    write = "import json, os, pathlib\npathlib.Path(os.environ['COMPACTNETS_RECORD']).write_text("
    toy.page("left", write + "json.dumps({'slug': 'left', 'profile': 'quick'}))")
    with pytest.raises(RunFailed, match="of left at quick, not of left at smoke"):
        execute("left", "smoke")
    toy.page("left", write + "json.dumps({'slug': 'left', 'profile': profile}))")
    assert (execute("left", "smoke") / "record.json").exists()


def test_the_kernel_knows_its_run(toy):
    names = "COMPACTNETS_PROFILE", "COMPACTNETS_RUN_KEY", "OMP_NUM_THREADS"
    toy.page("left", f"import os; print(*[os.environ[n] for n in {names}], os.getcwd())")
    folder = execute("left", "smoke", threads=1)
    shown = read(folder / "notebook.ipynb").cells[-1].outputs[0]["text"]
    assert shown == f"smoke {folder.name} 1 notebooks/toys\n"  # told without this machine's folder
    assert "COMPACTNETS_RUN_KEY" not in os.environ


def test_a_run_whose_sources_changed_after_planning_does_not_start(toy):
    key = keys.key(notebook.find("left"), "smoke")
    toy.module("left", "def left():\n    return 2\n")
    with pytest.raises(StaleKey, match="left: the sources changed"):
        execute("left", "smoke", key=key)


def test_a_module_edited_during_the_run_is_told(toy):
    edit = "import pathlib, toynets\nhere = pathlib.Path(toynets.__file__)\n"
    edit += "here.with_name('left.py').write_text('left = 5')"
    toy.page("left", edit)
    folder = execute("left", "smoke")
    report = runs.report("left", "smoke", folder.name)
    assert report is not None and report.changed_while_running == ["module toynets.left changed"]
    assert not runs.is_done("left", "smoke", keys.key(notebook.find("left"), "smoke"))


def test_too_little_disk_is_said_before_anything_starts(toy, monkeypatch):
    usage = shutil.disk_usage(toy.root)._replace(free=50 * 2**20)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(NotReady, match=r"only 50 MB free .* 200 MB needed.*COMPACTNETS_BUILD"):
        execute("left", "smoke")
    assert not list(runs.runs_dir().rglob("notebook.ipynb"))


def test_full_without_a_gpu_states_the_time_and_asks_for_the_flag(toy, monkeypatch):
    monkeypatch.setattr(resources, "gpus", lambda: 0)
    toy.page("left", "1", front="compactnets: {resources: {full: {runtime: 180}}}")
    left = [notebook.find("left")]
    with pytest.raises(NotReady, match=r"up to 3 h on a GPU .*--yes-without-gpu"):
        resources.check_machine(left, "full")
    resources.check_machine(left, "full", without_gpu=True)
    resources.check_machine(left, "full", local=False)
    resources.check_machine(left, "standard")


def test_a_misspelt_resource_is_an_error(toy):
    toy.page("left", "1", front="compactnets: {resources: {quick: {memory: 1}}}")
    with pytest.raises(ValueError, match=r"unknown resources \['memory'\]; known are"):
        resources.of(notebook.find("left"), "quick")
    assert resources.of(notebook.find("left"), "smoke") == resources.DEFAULTS["smoke"]


def test_a_run_killed_in_the_middle_leaves_nothing_and_the_next_one_completes(toy):
    started = toy.build / "started"
    pause = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\n"
    toy.page("left", pause + "time.sleep(0 if pathlib.Path('../../go').exists() else 60)")
    command = [sys.executable, "-m", "compactnets.book", "execute", "left", "--profile", "smoke"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(runs.runs_dir().rglob("report.json"))
    (toy.root / "go").touch()
    folder = execute("left", "smoke")
    left_over = {path.name for path in folder.parent.iterdir()} - {f".{folder.name}.lock"}
    assert left_over == {folder.name}


def test_only_the_newest_runs_are_kept(toy, monkeypatch):
    monkeypatch.setattr(runs, "KEPT", 2)
    for number in range(4):
        report = runs.Report(
            slug="left", profile="quick", key=f"{number:020x}", finished=f"2026-01-0{number + 1}",
            wall_seconds=1, peak_memory_mb=1, code_cells=1, threads=1, components={},
        )  # fmt: skip
        runs.write(report, runs.folder("left", "quick", report.key) / "report.json")
    runs.prune("left", "quick")
    assert sorted(p.name[-1] for p in (runs.runs_dir() / "left" / "quick").iterdir()) == ["2", "3"]
    newest = runs.newest("left", "quick")
    assert newest is not None and newest.finished == "2026-01-04"


def test_tidy_orders_streams_and_drops_noise_but_no_number(toy):
    table = '<style>#T_0a1b2_row0</style><table id="T_0a1b2">#T_0a1b2 3.14</table>'
    outputs = [
        new_output("stream", name="stderr", text="  5%|#  | 1/20 [00:01<00:19, 1.0s/it]\rdone\n"),
        new_output("stream", name="stdout", text="loss 0.25\n"),
        new_output("stream", name="stderr", text=f"{paths.project_root()}/lib/a.py:3: warned\n"),
        new_output("stream", name="stdout", text="loss 0.125\n"),
        new_output("execute_result", data={"text/html": table}, execution_count=1),
    ]
    source = new_notebook(cells=[new_code_cell("x", id="same")])
    executed = new_notebook(
        cells=[
            new_code_cell("oops", metadata={"tags": ["papermill-error-cell-tag"]}),
            new_code_cell("x", outputs=outputs, metadata={"papermill": {"duration": 1.5}}),
        ],
        metadata={"papermill": {"start_time": "now"}},
    )
    cell = tidy(executed, source).cells[0]
    assert [(o.get("name"), o.get("text")) for o in cell.outputs[:2]] == [
        ("stdout", "loss 0.25\nloss 0.125\n"),
        ("stderr", "done\nlib/a.py:3: warned\n"),
    ]
    assert cell.outputs[2]["data"]["text/html"] == table.replace("T_0a1b2", "T_0_0")
    assert cell.id == "same" and cell.metadata == {} and executed.metadata == {}


def test_folders_of_this_machine_are_shortened_also_in_long_texts(toy):
    installed = sysconfig.get_path("purelib")
    text = f"{installed}/torch/nn.py:3 {tempfile.gettempdir()}/ipykernel_12/345.py {toy.root}/lib/a"
    assert without_places(text) == "site-packages/torch/nn.py:3 <cell> lib/a"
    picture = "/".join(["abcdefgh"] * 100_000)  # an embedded picture: no search may be quadratic
    assert without_places(picture) == picture


def test_memory_of_children_is_seen():
    hungry = "x = bytearray(60_000_000); import time; time.sleep(0.6)"
    with execution.PeakMemory(0.05) as peak:
        subprocess.run([sys.executable, "-c", hungry], check=True)
    assert peak.bytes > 60_000_000
