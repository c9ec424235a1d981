"""Results folders: `folder` is about a cell's, `places` about its grid's, and `frames` reads many cells at once.

Every file is read through `files` or `tensors`; `standing` determines the state of a cell from its files.
"""

from bench.errors import DamagedFile
from bench.results.files import (
    NO_SPACE,
    CannotWrite,
    Damaged,
    InTheWay,
    Unreached,
    create_once,
    put_aside,
    read,
    read_bytes,
    read_json,
    share,
    warn_of,
    write_atomically,
    write_json,
    write_record,
)
from bench.results.folder import SCHEMA, Folder, groups, seedless
from bench.results.frames import (
    UNTOLD,
    Paths,
    by_code,
    distinct,
    flat,
    load_curves,
    load_grids,
    load_records,
    load_results,
    placed,
    run_folders,
    tell_apart,
    traits,
)
from bench.results.places import read_grid, write_grid
from bench.results.standing import Standing, standing
from bench.results.tensors import load_tensors, load_weights, out_of_memory, save_tensors

__all__ = [
    "NO_SPACE",
    "SCHEMA",
    "UNTOLD",
    "CannotWrite",
    "Damaged",
    "DamagedFile",
    "Folder",
    "InTheWay",
    "Paths",
    "Standing",
    "Unreached",
    "by_code",
    "create_once",
    "distinct",
    "flat",
    "groups",
    "load_curves",
    "load_grids",
    "load_records",
    "load_results",
    "load_tensors",
    "load_weights",
    "out_of_memory",
    "placed",
    "put_aside",
    "read",
    "read_bytes",
    "read_grid",
    "read_json",
    "run_folders",
    "save_tensors",
    "seedless",
    "share",
    "standing",
    "tell_apart",
    "traits",
    "warn_of",
    "write_atomically",
    "write_grid",
    "write_json",
    "write_record",
]
