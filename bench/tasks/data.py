"""Data sets on disk: which there are, how they are fetched, where they are kept.

A natural task names its `Dataset`; this file downloads it (`fetch`) or takes the user's files (`import_`), has them
checked and prepared, and opens the result. All of it is under `$BENCH_DATA` (otherwise the platform's cache folder):

    NAME/prepared.json          what is here: sources with their sha256, counts, settings, and the folder of the arrays
    NAME/arrays-XXXX/*.npy      one array per split (and what belongs to it), opened memory-mapped
    NAME/recorded-hashes.json   size and sha256 of downloads without a published hash, required from then on
    NAME/downloads/             finished files of a fetch that was interrupted
    NAME/lock                   one process at a time changes this folder

Arrays count as present once `prepared.json`, replaced in one rename, names their folder: a reader sees the complete old
data or the complete new data. What a killed process left behind is removed by the next fetch or import.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, TypeAdapter

from bench import registry
from bench.errors import BadInput, line, shown, unknown
from bench.paths import at_home, folder_name, read_regular

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` during the work; a total of 0 is unknown. `done` may start again."""

Prepare = Callable[[Path, Path, Progress], dict[str, Any]]
"""`prepare(source, into, progress)`: check the user's `source`, write `into/SPLIT.npy`, and return `sources`, `counts`
and `settings` for `prepared.json`; the last two are shown. Raises `BadInput` with one line for anything wrong with the
source."""

MOST_RECORDED = 64 << 20  # bytes of a JSON file
CHUNK = 1 << 20  # bytes read or downloaded at a time: large enough to be fast, small enough for smooth progress


def quiet(what: str, done: int, total: int) -> None:
    """Progress that is not shown."""


@dataclass(frozen=True)
class Source:
    """A public file. Without a published sha256, that of the first download is recorded."""

    url: str
    sha256: str | None = None

    @property
    def file(self) -> str:
        """The name under which it is downloaded."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A data set, and how the user's files become token arrays."""

    origin: str  # who made it; for `data list`
    size: str
    licence: str
    accepts: str  # what `data import` takes
    sources: tuple[Source, ...] = ()  # none: it cannot be fetched
    prepare: Prepare | None = None  # None: it comes with a library and is always here
    ask: str = ""  # where to get it when it cannot be fetched
    version: int = 1  # raised when the prepared form changes
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of a bundled data set


@dataclass(frozen=True)
class Entry:
    """One line of `data list`."""

    name: str
    source: str
    urls: tuple[str, ...]
    size: str
    licence: str
    here: str | None  # where the arrays are, or "bundled"; None when the data is missing
    counts: Mapping[str, Mapping[str, int]]  # split -> what is counted -> how many
    settings: Mapping[str, Any]  # how it was prepared; under a split's name, where that split comes from
    hint: str  # what to do when it is not here, in one line; otherwise empty


def cache() -> Path:
    """The folder that holds all data sets."""
    if given := os.environ.get("BENCH_DATA"):
        return at_home(given)
    import pooch

    try:
        return Path(pooch.os_cache("recurbench")).expanduser()
    except RuntimeError:
        raise BadInput("this user has no home folder to keep data sets in; name one in BENCH_DATA") from None


def datasets() -> dict[str, Dataset]:
    """The data sets of all registered tasks, by the task's name."""
    found = {name: getattr(registry.tasks.get(name), "dataset", None) for name in registry.tasks.names()}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


def catalogue() -> list[Entry]:
    """Every data set: source, size, licence, and whether it is here."""
    return [_entry(name, dataset) for name, dataset in datasets().items()]


def missing(name: str, dataset: Dataset) -> str | None:
    """Why the data cannot be used and which commands bring it, in one line; None when it is present."""
    if dataset.prepare is None:
        return None
    about = _about(name)
    if about is not None and about.get("version") == dataset.version and _folder(name, about).is_dir():
        return None
    state = "is not here" if about is None else "was prepared by another version or is damaged"
    by_hand = f"`python run_bench.py data import {name} --from PATH`"
    if dataset.sources:
        return f"{name}: its data {state}; bring it with `python run_bench.py data fetch {name}` or {by_hand}"
    return f"{name}: its data {state}; {dataset.ask}, then bring it with {by_hand} (PATH: {dataset.accepts})"


def arrays(name: str, dataset: Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The prepared arrays, memory-mapped (private copies on write), and the contents of `prepared.json`.

    Raises `BadInput` when the data is not here or is damaged.
    """
    if reason := missing(name, dataset):
        raise BadInput(reason)
    about = _about(name)
    assert about is not None
    opened = {}
    for key, shape in about["arrays"].items():
        path = _folder(name, about) / f"{key}.npy"
        try:
            if not path.is_file():
                raise OSError("is missing, or no regular file")
            opened[key] = np.load(path, mmap_mode="c")
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{name}: {path} is damaged ({line(error)}); fetch or import {name} again") from None
        if list(opened[key].shape) != shape:
            raise BadInput(
                f"{name}: {path} is damaged (its size is not the recorded one); fetch or import {name} again"
            )
    return opened, about


def fetch(name: str, progress: Progress = quiet, sources: tuple[Source, ...] | None = None) -> Entry:
    """Download, verify and prepare a data set; does nothing when it is here already. Safe to interrupt and repeat.

    A repeated fetch keeps the files that were finished and starts the others again. `sources` stands in for the public
    files. Raises `BadInput` when there is no public file, when a download fails, and when a file is not the right one.
    """
    dataset = _known(name)
    if sources is None:
        sources = dataset.sources
    if dataset.prepare is None:
        raise BadInput(f"data fetch {name}: {name} is bundled ({dataset.origin}); there is nothing to fetch")
    if not sources:
        raise BadInput(
            f"data fetch {name}: there is no public file to download; {dataset.ask}, then run "
            f"`python run_bench.py data import {name} --from PATH` (PATH: {dataset.accepts})"
        )
    with _working(f"data fetch {name}", name, progress) as home:
        if missing(name, dataset) is not None:
            downloads, records = home / "downloads", home / "recorded-hashes.json"
            recorded = _recorded(records)
            for source in sources:
                _download(source, recorded.get(source.url, {}).get("sha256"), downloads, progress)
            try:
                _prepare(name, dataset, downloads, home, [source.url for source in sources], progress)
            except BadInput:  # not what it should be, an error page for one: neither kept nor recorded
                shutil.rmtree(downloads)
                raise
            new = [source for source in sources if source.sha256 is None and source.url not in recorded]
            recorded |= {source.url: fingerprint_of_file(downloads / source.file) for source in new}
            if new:
                _write_json(records, recorded)
            shutil.rmtree(downloads)
    return _entry(name, dataset)


def import_(name: str, path: str | Path, progress: Progress = quiet) -> Entry:
    """Check and prepare the user's own files; they take the place of what was here.

    Raises `BadInput`, and leaves the prepared data as it was, when anything is wrong with them.
    """
    dataset = _known(name)
    if dataset.prepare is None:
        raise BadInput(f"data import {name}: {name} is bundled ({dataset.origin}); there is nothing to import")
    source = at_home(path).absolute()
    if not (source.is_file() or source.is_dir()):
        raise BadInput(f"data import {name}: no file or folder {shown(str(path))}; should be {dataset.accepts}")
    with _working(f"data import {name}", name, progress) as home:
        _prepare(name, dataset, source, home, [], progress)
    return _entry(name, dataset)


def files_in(folder: Path, pattern: str, *suffixes: str) -> list[Path]:
    """The files in the folder that match the pattern and end in a suffix, sorted.

    Names that begin with a dot and the contents of `__MACOSX` are skipped, as these are an operating system's own, such
    as macOS's `._NAME` with metadata of NAME. Raises `BadInput` for a pipe, a device or a link to nothing.
    """

    def own(path: Path) -> bool:
        return not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)

    matching = (path for path in folder.glob(pattern) if path.name.lower().endswith(suffixes))
    found = sorted(path for path in matching if own(path) and not path.is_dir())
    for path in found:
        if not path.is_file():
            raise BadInput(f"{path} is not a regular file")
    return found


@contextmanager
def decoding(name: str, kind: str = "") -> Iterator[None]:
    """Turn any failure to decode a file into one line that names the file and `kind`, what it should be.

    Decoders raise almost anything for a damaged file, even `MemoryError` for a size that it claims.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        what = f"is not {kind}, or is truncated or damaged" if kind else "is truncated or damaged"
        raise BadInput(f"{name} {what}: {line(error)}") from None


def unpacked(path: Path, most: int) -> bytes:
    """The content of a file, gzipped or not. Raises `BadInput` when it has more than `most` bytes, or is damaged."""
    with decoding(path.name), path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if gzipped else file as content:
            raw = content.read(most + 1)
    if len(raw) > most:
        raise BadInput(f"{path.name} has more than {most:,} bytes; should have at most that many")
    return raw


def fingerprint_of_file(path: Path) -> dict[str, Any]:
    """Name, size in bytes and sha256 of a file, for `prepared.json`."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _known(name: str) -> Dataset:
    known = datasets()
    if name not in known:
        raise unknown("data set", name, known)
    return known[name]


def _entry(name: str, dataset: Dataset) -> Entry:
    hint = missing(name, dataset)
    about = _about(name) if dataset.prepare is not None and hint is None else None
    here = str(_folder(name, about)) if about else None if hint else "bundled"
    urls = tuple(source.url for source in dataset.sources)
    counts, settings = (about["counts"], about["settings"]) if about else (dataset.counts, {})
    return Entry(name, dataset.origin, urls, dataset.size, dataset.licence, here, counts, settings, hint or "")


class _Prepared(BaseModel):
    """The keys that `prepared.json` must have."""

    version: int
    folder: Annotated[str, AfterValidator(lambda name: folder_name(name, "folder"))]
    arrays: dict[Annotated[str, AfterValidator(lambda name: folder_name(name, "array"))], list[int]]
    counts: dict[str, dict[str, int]]
    settings: dict[str, Any]
    fingerprint: str


class _Fingerprint(BaseModel):
    """The keys that `recorded-hashes.json` must have for a download."""

    sha256: str


DAMAGED: dict[str, Any] = {"folder": "", "arrays": {}}
"""Stands for a `prepared.json` that cannot be read."""


def _about(name: str) -> dict[str, Any] | None:
    """The contents of `prepared.json`; None when nothing was prepared, and `DAMAGED` where it cannot be read."""
    path = cache() / name / "prepared.json"
    try:
        about = json.loads(read_regular(path, MOST_RECORDED))
        _Prepared.model_validate(about, strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return DAMAGED
        # Without permission, for example, nothing is known about what is there.
        raise BadInput(f"{name}: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        return DAMAGED
    return about


def _recorded(path: Path) -> dict[str, Any]:
    """The recorded hashes. Raises `BadInput` where they cannot be read, as any file would do without them."""
    try:
        recorded = json.loads(read_regular(path, MOST_RECORDED))
        TypeAdapter(dict[str, _Fingerprint]).validate_python(recorded, strict=True)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise BadInput(f"{path} is damaged; delete it, and the next download is trusted and recorded") from None
    return recorded


def _folder(name: str, about: Mapping[str, Any]) -> Path:
    return cache() / name / about["folder"]


@contextmanager
def _working(command: str, name: str, progress: Progress) -> Iterator[Path]:
    """The data set's folder, locked against other processes. Errors that a user can act on become one line."""
    import filelock

    home = cache() / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(home / "lock")
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"waiting for another process that prepares {name}", 0, 0)
            held = lock.acquire()
        with held:
            _remove_leftovers(home)
            try:
                yield home
            finally:
                _remove_leftovers(home)
    except BadInput as error:
        raise BadInput(f"{command}: {error}") from None
    except OSError as error:  # no space left, no permission
        raise BadInput(f"{command}: {line(error)}") from None


def _remove_leftovers(home: Path) -> None:
    """Remove what `prepared.json` does not name: arrays replaced or unfinished, temporary files of killed processes."""
    about = _about(home.name)
    kept = about["folder"] if about else None
    for path in home.glob("arrays-*"):
        if path.name != kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in (*home.glob("*.writing"), *home.glob("downloads/tmp*")):
        path.unlink(missing_ok=True)
    if (home / "downloads").is_dir() and not any((home / "downloads").iterdir()):
        (home / "downloads").rmdir()


def _prepare(name: str, dataset: Dataset, source: Path, home: Path, urls: list[str], progress: Progress) -> None:
    """Write the arrays into a folder of their own, then let `prepared.json` name it."""
    assert dataset.prepare is not None
    folder = Path(tempfile.mkdtemp(prefix="arrays-", dir=home))
    folder.chmod(0o755)  # mkdtemp's 0700 would lock out the others who share a cache
    prepared = dataset.prepare(source, folder, progress)
    shapes, digest = {}, hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        array = np.load(path, mmap_mode="r")
        shapes[path.stem] = list(array.shape)
        digest.update(f"{path.stem} {array.dtype} {array.shape}\n".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
            os.fsync(stream.fileno())
    _fsync_folder(folder)
    about = {
        "dataset": name,
        "version": dataset.version,
        "prepared_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "urls": urls,
        **prepared,
        "arrays": shapes,
        "fingerprint": digest.hexdigest(),
        "folder": folder.name,
    }
    _write_json(home / "prepared.json", about)


def _download(source: Source, recorded: str | None, downloads: Path, progress: Progress) -> None:
    """Download one file, unless it is there already; it appears under its name only once it is verified."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    known = source.sha256 or recorded
    bar = _Bar(f"downloading {source.file}", progress)
    # "identity": the server then announces the length of the file itself, so that a truncated transfer is noticed.
    http = pooch.HTTPDownloader(bar, CHUNK, headers={"Accept-Encoding": "identity"})

    def get(url: str, output: str, _: object) -> None:
        http(url, output, None)
        got = Path(output).stat().st_size
        if bar.total and got != bar.total:
            raise BadInput(f"{url}: the transfer ended after {got:,} of {bar.total:,} bytes; run the command again")
        if known and (digest := pooch.file_hash(output)) != known:
            origin = "published" if source.sha256 else "recorded at the first fetch, in recorded-hashes.json"
            raise BadInput(f"{url}: not the expected file: its sha256 is {digest}, not {known} ({origin})")

    try:
        pooch.retrieve(source.url, f"sha256:{known}" if known else None, source.file, downloads, downloader=get)
    except requests.HTTPError as error:
        answer = error.response
        reason = line(error) if answer is None else f"{answer.status_code} {answer.reason}"
        raise BadInput(f"{source.url}: the server says {reason}") from None
    except requests.RequestException as error:
        raise BadInput(f"{source.url}: the transfer broke off ({line(error)}); run the command again") from None


class _Bar:
    """A progress bar for pooch, which passes on how many bytes are done."""

    def __init__(self, what: str, progress: Progress) -> None:
        self.what, self.progress = what, progress
        self.done = self.total = 0

    def update(self, n: int) -> None:
        self.done = min(self.done + n, self.total) if self.total else self.done + n
        self.progress(self.what, self.done, self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write to a temporary file, flush it to disk, and rename it."""
    beside = path.with_name(f"{path.name}.writing")
    with beside.open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
