"""A Study in a real kernel: rich output, cells that are run again, a notebook that stops."""

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from compactnets.study import record
from study_toy import make_home

CELLS = [
    'from compactnets.study import Study\ntoy = Study("toy", profile="smoke")\ntoy.header()',
    'toy.observe("top1", 61.0, seed=0, unit="%", method="Toy")\n'
    'toy.observe("top1", 60.0, seed=0, unit="%", method="Base")',
    'toy.table("main", baseline="Base")',
    'toy.prove("E1", 2 + 2 == 4, "counted")\n'
    'toy.judge("S1", toy.values("top1", method="Toy"), toy.values("top1", method="Base"))\n'
    'toy.measure("K1", True, "2 times")',
    "toy.recorded()\ntoy.finish()",
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    # A script takes its profile from this variable; the notebook's cell must win over it.
    home = make_home(tmp_path, monkeypatch)
    monkeypatch.setenv("COMPACTNETS_PROFILE", "standard")
    return home


def test_a_notebook_shows_html_writes_its_record_and_stops_at_a_failed_exact_claim(home):
    again = CELLS[1].replace("61.0", "62.0")  # as if the cell had been edited and run again
    failing = 'Study("toy", profile="smoke").prove("E1", False, "5")'
    sources = [*CELLS[:2], again, *CELLS[2:], failing, "print('not reached')"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    with pytest.raises(CellExecutionError, match="toy E1 does not hold"):
        NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3").execute()

    outputs = [out for cell in notebook.cells[:-2] for out in cell.outputs]
    assert {out.output_type for out in outputs} == {"display_data"}
    assert all({"text/html", "text/plain"} <= set(out.data) for out in outputs)
    assert "No recorded run yet" in outputs[0].data["text/html"]
    table = outputs[1].data["text/html"]
    assert "<strong>62</strong>" in table
    assert "+2" in table
    done = record.read(home / "_build" / "records" / "toy" / "smoke.json")
    assert [a.verdict for a in done.answers] == ["holds", "undecided", "holds"]
    assert sorted(o.value for o in done.observations) == [60.0, 62.0]

    stopped, after = notebook.cells[-2:]
    assert [out.output_type for out in stopped.outputs] == ["display_data", "error"]
    assert "✗ fails" in stopped.outputs[0].data["text/plain"]
    assert after.outputs == []
