"""Checks a built book: every page finished, and on real data where there is any."""

import json

from compactnets import data
from compactnets.book import keys, notebook, runs

STANDS_IN_FOR = {"shapes32": "cifar10", "scenes": "T91"}  # drawn set -> what "auto" takes before it


def problems(profile: str) -> list[str]:
    """One line for each page that has no finished run of its present state, or that ran on drawn
    data only although the set it stands in for is on this machine."""
    found = []
    keys.forget()
    for slug, source in notebook.every().items():
        shown = runs.shown(source, profile)
        if not isinstance(shown, runs.Report):
            state = "failed" if isinstance(shown, runs.Failure) else "has not been run"
            found.append(f"{slug}: {state} at profile {profile}")
            continue
        path = runs.folder(slug, shown.profile, shown.key) / "record.json"
        used = json.loads(path.read_text(encoding="utf-8"))["data"] if path.exists() else []
        if any(use["source"] == "files" for use in used):
            continue
        for name in sorted({use["name"] for use in used}):
            real = STANDS_IN_FOR.get(name)
            if real is not None and data.find(real) is not None:
                found.append(f"{slug}: ran on {name} although {real} is in {data.find(real)}")
    return found
