"""The record of a run: what was observed, on what, with which verdicts."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compactnets import paths
from compactnets.profiles import PROFILES, ProfileName
from compactnets.stats import Verdict

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Observation(_Strict):
    """One number: what was measured, on which row and seed. Labels tell rows apart."""

    metric: str
    value: float
    seed: int | None = None
    unit: str | None = None
    labels: dict[str, str | int | float | bool] = {}


class Part(_Strict):
    """One comparison of a statistical claim: mean difference and its 95 % interval."""

    label: str
    n: int
    mean: float
    low: float | None  # None: unbounded (one seed)
    high: float | None
    verdict: Verdict


class Answer(_Strict):
    """The verdict on one claim and what it rests on."""

    claim: str
    kind: Literal["exact", "statistical", "measured"]
    statement: str
    verdict: Verdict
    evidence: str
    margin: float | None = None
    test: str | None = None
    parts: list[Part] = []
    unit: str | None = None


class DataUse(_Strict):
    """A data set as it was used; source is "embedded" or "files"."""

    name: str
    split: str
    items: int
    sha256: str
    source: Literal["embedded", "files"]


class TestRead(_Strict):
    """One evaluation on a test split."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    data: str
    items: int
    purpose: str


class TrainedRun(_Strict):
    """One training, by the checkpoint cache's key; seconds are those it took when it ran."""

    label: str
    seed: int | None = None
    seconds: float
    cached: bool
    key: str | None = None


class Provenance(_Strict):
    """The code, packages and machine behind a run; None: could not be had."""

    revision: str | None
    clean: bool | None
    key: str | None = None  # the pipeline's key of code, data and profile
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    gpu: str | None
    threads: int
    precision: str
    kernels: str  # instruction-set path of the native module, or "reference"


class Record(_Strict):
    """A finished run; JSON in data/results/<slug>/<profile>.json once recorded."""

    schema_version: Literal[1] = SCHEMA
    slug: str
    profile: ProfileName
    run_id: str
    started: str  # ISO 8601, UTC
    wall_seconds: float
    training_seconds: float  # also of networks that came from the checkpoint cache
    seeds: list[int]
    parameters: dict[str, str | int | float | bool | list | dict | None]
    data: list[DataUse]
    test_reads: list[TestRead]
    runs: list[TrainedRun] = []
    observations: list[Observation]
    answers: list[Answer]
    provenance: Provenance


class RecordError(ValueError):
    """A record that is missing, damaged or does not fit the schema."""


def read(path: Path) -> Record:
    """Reads and checks one record; RecordError names the file and the bad field."""
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"no record {path}: run the notebook first") from None
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors()
        )
        raise RecordError(f"{path} does not fit the record schema: {details}") from None


def write(record: Record, path: Path) -> None:
    """Writes a record as sorted, indented JSON with one line per observation, atomically."""
    facts = record.model_dump(mode="json")
    lines = [_json(row) for row in facts.pop("observations")]
    head = _json(facts | {"observations": []}, indent=1)
    rows = ",\n".join(f"  {line}" for line in lines)
    place = '\n "observations": []'  # at the outermost level, and so the only one
    text = head.replace(place, place.replace("[]", f"[\n{rows}\n ]")) if rows else head
    with paths.write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, sort_keys=True)


def recorded(slug: str) -> dict[ProfileName, Record]:
    """Committed records of a paper by profile, the largest profile last."""
    folder = paths.results_dir() / slug
    found: dict[ProfileName, Path] = {p: folder / f"{p}.json" for p in PROFILES}
    return {p: read(path) for p, path in found.items() if path.exists()}


def largest(slug: str) -> Record | None:
    """The recorded run of the largest profile, which the page shows; None if there is none."""
    runs = recorded(slug)
    return runs[list(runs)[-1]] if runs else None
