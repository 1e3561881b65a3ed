"""What the project asks of a machine is said once: pyproject, lock file and environment agree."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {
    name: (ROOT / name).read_text().splitlines()
    for name in ("requirements.lock", "requirements-bench.lock")
}
LOCKED_GROUPS = tuple(PYPROJECT["project"]["optional-dependencies"])
CONDA_NAMES = {"pytorch": "torch"}  # where conda-forge calls a package otherwise
CONDA_TOOLS = {"python", "pip", "cxx-compiler", "make"}  # not Python packages


def split(requirement: str) -> tuple[str, str]:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return name[0].lower().replace("_", "-"), requirement[name.end() :].replace(" ", "")


def wanted() -> dict[str, str]:
    project = PYPROJECT["project"]
    groups = [project["optional-dependencies"][group] for group in LOCKED_GROUPS]
    return dict(split(line) for lines in (project["dependencies"], *groups) for line in lines)


def locked() -> dict[str, list[str]]:
    """Name -> versions, of both files; a package has more than one only for other Pythons."""
    found: dict[str, list[str]] = {}
    for line in dict.fromkeys(line for lock in LOCKS.values() for line in lock):
        name, version = line.split(" ;")[0].split("==")
        found.setdefault(name, []).append(version)
    return found


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_the_lock_holds_names_versions_and_markers_only(lock):
    pattern = r"[a-z0-9][a-z0-9._-]*==[A-Za-z0-9.+!]+( ; .+)?"
    assert lock and all(re.fullmatch(pattern, line) for line in lock)
    assert sorted(lock, key=lambda line: line.split("==")[0]) == lock
    assert not any(re.search(r"== '(win32|nt|emscripten)'$", line) for line in lock)


def test_the_two_locks_agree():
    one, other = ({line.split(" ;")[0] for line in lock} for lock in LOCKS.values())
    names = {line.split("==")[0] for line in one} & {line.split("==")[0] for line in other}
    assert names
    assert all(line in one for line in other if line.split("==")[0] in names)


def test_the_lock_has_everything_the_project_wants_and_the_tried_pair_of_torch():
    assert wanted().keys() <= locked().keys()
    assert locked()["torch"] == ["2.13.0"] and locked()["torchvision"] == ["0.28.0"]
    assert locked()["jupyter-book"][0].startswith("1.")  # version 2 does not read _config.yml


def test_the_lock_meets_the_lower_bounds():
    def parts(version):
        return [int(part) for part in re.findall(r"\d+", version)][:3]

    for name, bounds in wanted().items():
        lower = re.search(r">=([\d.]+)", bounds)
        assert lower, f"{name} has no lower bound"
        assert all(parts(version) >= parts(lower[1]) for version in locked()[name]), name


def test_environment_yml_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = [line for line in environment["dependencies"] if isinstance(line, str)]
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    found = dict(split(line) for line in conda + pip)
    assert found.pop("python") == PYPROJECT["project"]["requires-python"]
    assert found.keys() >= CONDA_TOOLS - {"python"}
    packages = {CONDA_NAMES.get(n, n): v for n, v in found.items() if n not in CONDA_TOOLS}
    assert packages == wanted()


def test_no_file_of_the_set_up_names_an_index():
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "environment.yml", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"--(extra-)?index|find-links|://(?!github\.com/)", text)


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_has_the_promised_targets_and_lists_them():
    promised = {"book", "test", "lab", "paper", "bench", "lint", "data", "clean", "lock"}
    assert promised <= makefile_targets()
    done = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"make {target}" in done.stdout for target in promised)


def test_make_refuses_an_old_python_and_names_the_cure(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "kernels").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    old = tmp_path / "bin" / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    for program in (uv, old):
        program.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}", f"UV={uv}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stdout + done.stderr


def test_make_paper_asks_which(tmp_path):
    recipe = subprocess.run(
        ["make", "-n", "paper", "SLUG=rebnn", "PROFILE=standard", "-o", ".venv/.package"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "build rebnn --profile standard" in recipe and "say which paper" in recipe


def test_lab_opens_the_text_notebooks_as_notebooks_with_a_kernel(tmp_path):
    settings = json.loads((ROOT / "workflow" / "lab" / "overrides.json").read_text())
    viewers = settings["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"]
    assert viewers["markdown"] == viewers["myst"] == "Jupytext Notebook"
    assert "share/jupyter/lab/settings/overrides.json" in (ROOT / "Makefile").read_text()

    from jupytext import TextFileContentsManager

    text = "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n"
    text += "kernelspec: {name: python3, display_name: Python 3, language: python}\n---\n"
    text += "# Title\n\n```{code-cell} ipython3\nx = 1\n```\n"
    (tmp_path / "page.md").write_text(text)
    shutil.copy(ROOT / "jupytext.toml", tmp_path)
    manager = TextFileContentsManager(root_dir=str(tmp_path))
    page = manager.get("page.md", type="notebook")
    assert [cell["cell_type"] for cell in page["content"]["cells"]] == ["markdown", "code"]
    assert page["content"]["metadata"]["kernelspec"]["name"] == "python3"
    manager.save(page, "page.md")  # as JupyterLab does
    saved = (tmp_path / "page.md").read_text()
    assert jupytext.reads(saved, fmt="md:myst").cells[1].source == "x = 1"
    assert [path.name for path in tmp_path.glob("page*")] == ["page.md"]  # no second copy


@pytest.mark.parametrize("path", ["book.yml"])
def test_the_workflow_publishes_with_the_two_commands(path):
    text = (ROOT / ".github" / "workflows" / path).read_text()
    workflow = yaml.safe_load(text)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "make test" in commands and "make book" in commands
    used = {step["uses"].split("@")[0] for step in steps if "uses" in step}
    assert all(action.startswith("actions/") for action in used)
    assert {"actions/upload-pages-artifact", "actions/deploy-pages"} <= used


def test_ci_is_a_shell_script_that_parses():
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert sys.version_info >= (3, 11)
