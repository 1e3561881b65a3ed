"""fetch: brings a public data set onto this machine, on request only."""

import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pooch
import requests
from filelock import FileLock
from tqdm.auto import tqdm

from compactnets import paths
from compactnets.data import registry
from compactnets.data.verification import ChecksumError, verify_folder

_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30  # seconds without a byte


class NotEnoughSpace(OSError):
    """The disk has no room for the archive and what it unpacks to."""


class FetchError(OSError):
    """The download broke off or was refused; a second fetch goes on where it stopped."""


def fetch(name: str, *, progress: bool = True) -> Path:
    """Downloads, checks and unpacks a data set into paths.data_dirs()[0]; returns its folder.

    A set that is there and agrees with its sums is left alone; of an incomplete one the missing
    files are added. Nothing that exists is overwritten. A download that broke off is continued
    from <data dir>/.downloads; the set's own folder appears whole or not at all.
    ValueError without a public address; ChecksumError for a damaged archive or a damaged file
    in place; NotEnoughSpace; FetchError when the server fails.
    """
    one = registry.entry(name)
    if one.archive is None:
        raise ValueError(f"{name} cannot be fetched: {one.cure}")
    home = paths.data_dirs()[0]
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{name}.lock"):
        if _is_whole(one, home / one.path):
            return home / one.path
        need = one.bytes + (one.archive.bytes or 0)
        _check_space(home, need, one.title)
        archive = _download(one, one.archive, home / ".downloads", progress)
        _unpack(one, archive, home)
        archive.unlink()
    return home / one.path


def _is_whole(one: registry.DataSet, folder: Path) -> bool:
    """False if something is missing; ChecksumError if a file in place is damaged."""
    if not folder.is_dir():
        return False
    listed = [*one.files, *one.folders]
    there = {path for path in listed if (folder / path).exists()}
    part = one.model_copy(
        update={"files": {k: v for k, v in one.files.items() if k in there}, "folders": {}}
    )
    verify_folder(part, folder)
    if len(there) < len(listed):
        return False
    verify_folder(one, folder)
    return True


def _check_space(folder: Path, need: int, title: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise NotEnoughSpace(
            f"{title} needs {need / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free: "
            f"make room, or point COMPACTNETS_DATA to a larger disk"
        )


def _download(
    one: registry.DataSet, archive: registry.Archive, folder: Path, progress: bool
) -> Path:
    name = archive.url.rpartition("/")[2]
    resume = _Resume(folder / f"{name}.part", one, progress)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(
            pooch.retrieve(
                archive.url,
                archive.sum,
                fname=name,
                path=folder,
                downloader=resume,  # pyright: ignore[reportArgumentType] its protocol is misnamed
            )
        )
    except ValueError as error:  # pooch's way to report a wrong sum; it keeps nothing
        raise ChecksumError(
            f"{archive.url} is not the archive that the registry expects ({error}); nothing was "
            f"unpacked"
        ) from error
    except requests.RequestException as error:
        raise FetchError(
            f"{archive.url} could not be fetched ({error}); what arrived is kept, run the same "
            f"command again to go on"
        ) from error


class _Resume:
    """A downloader for pooch that goes on where an earlier attempt stopped."""

    def __init__(self, part: Path, one: registry.DataSet, progress: bool) -> None:
        self.part, self.one, self.progress = part, one, progress

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        ask = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=ask, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                os.replace(self.part, output_file)  # it was complete; its sum will tell
                return
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content:
                have = 0
            self._receive(answer, have)
        os.replace(self.part, output_file)

    def _receive(self, answer: requests.Response, have: int) -> None:
        coming = int(answer.headers.get("Content-Length", 0))
        _check_space(self.part.parent, coming + self.one.bytes, self.one.title)
        with (
            self.part.open("ab" if have else "wb") as file,
            tqdm(
                total=have + coming or None,
                initial=have,
                unit="B",
                unit_scale=True,
                desc=self.one.name,
                disable=not self.progress,
            ) as bar,
        ):
            for piece in answer.iter_content(_CHUNK):
                file.write(piece)
                bar.update(len(piece))
        if coming and self.part.stat().st_size < have + coming:
            raise requests.ConnectionError("the connection closed early")


def _unpack(one: registry.DataSet, archive: Path, home: Path) -> None:
    """Unpacks beside the target, verifies there, and moves what is missing into place."""
    prefix = f".unpacking-{one.name}-"
    for stale in home.glob(f"{prefix}*"):  # of a fetch that was killed; ours is the only one now
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=home, prefix=prefix) as temporary:
        try:
            _extract(archive, Path(temporary))
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise ChecksumError(f"{archive} cannot be unpacked ({error}): remove it") from error
        source, target = Path(temporary) / Path(one.path).name, home / one.path
        if not source.is_dir():
            raise ChecksumError(f"{archive} does not hold a folder {source.name}")
        verify_folder(one, source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            return
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            place = target / file.relative_to(source)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
    verify_folder(one, home / one.path)


def _extract(archive: Path, folder: Path) -> None:
    """All regular files of a tar or zip archive; ChecksumError if one would land elsewhere."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # drops leading slashes and ".." itself
        return
    with tarfile.open(archive) as file:
        members = [m for m in file if m.isfile() or m.isdir()]
        root = folder.resolve()
        if strange := [
            m.name for m in members if not (root / m.name).resolve().is_relative_to(root)
        ]:
            raise ChecksumError(f"{archive} would write outside of its folder: {strange[0]}")
        if hasattr(tarfile, "data_filter"):  # not in the first releases of Python 3.11
            file.extraction_filter = tarfile.data_filter
        file.extractall(folder, members=members)
