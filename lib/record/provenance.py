"""Where a number came from: the recorded result, its parameters, and the run that made it.

A result is one JSON file, ``results/<experiment>/<name>.json``. It is written whole or not at all, and its
checksum covers everything a reader could quote from it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "results"
_CONTENT = ("experiment", "parameters", "seeds", "metrics", "curves")


def results_folder() -> Path:
    """The folder of the results to show: this build's where a build runs (RESULTS_DIR), else the recorded one."""
    return Path(os.environ.get("RESULTS_DIR", RECORDED))


def commit() -> str:
    """Short commit of the checkout, with ``-dirty`` where tracked files differ; ``unknown`` outside git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def device(where: Any = "cpu") -> str:
    """A torch device in words: the GPU's name, or the kind of processor."""
    import torch

    found = torch.device(where)
    return torch.cuda.get_device_name(found) if found.type == "cuda" else f"CPU {platform.machine()}"


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
    content = {key: result.get(key) for key in _CONTENT}
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
        self._clock = time.perf_counter()

    def provenance(self) -> dict[str, Any]:
        return {
            "commit": commit(),
            "device": self.device,
            "versions": versions("torch", "transformers", "peft", "numpy", "numba"),
            "seconds": round(time.perf_counter() - self._clock, 2),
            "started": self.started,
            **{name: count for name, count in self.shared.items() if count > 1},
        }


def write_json(path: Path, content: Any) -> None:
    """Write JSON to ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    draft.replace(path)


def save(
    path: Path,
    *,
    experiment: str,
    parameters: Mapping[str, Any],
    seeds: Sequence[int],
    metrics: Mapping[str, Any],
    curves: Mapping[str, Any],
    run: Run,
) -> dict[str, Any]:
    """Record one result. Metrics hold one value a seed; curves hold what a figure draws."""
    result: dict[str, Any] = {
        "experiment": experiment,
        "parameters": dict(parameters),
        "seeds": list(seeds),
        "metrics": dict(metrics),
        "curves": dict(curves),
    }
    result["provenance"] = {**run.provenance(), "checksum": checksum(result)}
    write_json(path, result)
    return result


def load(path: Path) -> Result:
    """Read one recorded result; a missing, cut or altered file is refused by name."""
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such result; `make book` computes it") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a whole JSON file ({error}); delete it and run again") from None
    missing = [key for key in (*_CONTENT, "provenance") if key not in result]
    if missing:
        raise ValueError(
            f"{path}: field {missing[0]!r} is missing; a result holds {', '.join(_CONTENT)}, provenance"
        )
    if checksum(result) != result["provenance"].get("checksum"):
        raise ValueError(
            f"{path}: content does not match its checksum; it was altered after the run that made it"
        )
    return Result(result, path)


def check_same(result: Mapping[str, Any], expected: Mapping[str, Any], holds: str) -> None:
    """Refuse a result that is there already and was made with other parameters.

    :param holds: begins the message, such as ``a.json: holds``
    :raises ValueError: for the first parameter that differs, by name
    """
    for name, value in expected.items():
        there = result["parameters"].get(name)
        if there != value:
            raise ValueError(f"{holds} {name}={there!r}, not {value!r}; choose another file, or move this one away")


def results(experiment: str, folder: Path | None = None) -> Iterator[Result]:
    """Every result of one experiment, in the order of its file names."""
    for path in sorted(((folder or results_folder()) / experiment).glob("*.json")):
        yield load(path)
