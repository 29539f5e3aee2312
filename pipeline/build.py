"""What `make` calls:  python -m pipeline.build book|chapter|experiments|pages|pdf|archive|record

Settings come through the environment, as they were typed: PROFILE, SET, NAME, CORES. One build runs at a time in one
folder: this process holds a lock for as long as it lives, so a build that was killed leaves none behind, and ends
whatever a killed build left running.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from pipeline import chapters, experiments
from pipeline.settings import Refused

ROOT = chapters.ROOT
BUILD = ROOT / "_build"
#: in the environment of every process of a build: the folder that it builds in
MARK = "BOOK_BUILD"
TITLE = "reversal-curse-book"  # name of the files to take along
PATIENCE = 5.0  # seconds for a build that was told to end
SNAKEMAKE = ("snakemake", "--nolock", "--resources", "gpu=2", "--quiet", "rules", "host", "--show-failed-logs",
             "--rerun-incomplete")
#: settings that each target has a use for; a target refuses the others
USED = {"book": ("PROFILE", "SET", "CORES"), "chapter": ("PROFILE", "SET", "NAME", "CORES"),
        "experiments": ("PROFILE", "SET", "NAME", "CORES"), "pages": (), "pdf": (), "archive": (),
        "record": ("PROFILE", "CORES")}
WHY_NOT = {"pages": "it executes nothing", "pdf": "it prints what is recorded", "archive": "it packs what is recorded",
           "record": "what is recorded has the chapters' own parameters",
           "book": "it builds every chapter; `make chapter` builds one"}


class Stopped(Exception):
    """The build was told to end, or what started it is gone."""


def main(arguments: Sequence[str]) -> int:
    target = arguments[0] if len(arguments) == 1 else ""
    signal.signal(signal.SIGTERM, _stop)
    try:
        if target not in USED:
            raise Refused(f"no target {' '.join(arguments)!r}; the targets are {', '.join(USED)}")
        settings = check(target, os.environ)
        with lock(target):
            return TARGETS[target](settings)
    except Refused as error:
        print(f"make {target}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped) as error:
        print(f"make {target}: stopped; the same command goes on from here", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 143


def _stop(*_: Any) -> None:
    raise Stopped


# Settings ----------------------------------------------------------------------------------------------------------


def check(target: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of a target, valid in full: whatever is wrong in them is refused before anything runs."""
    found = {name: environment.get(name, "").strip() for name in ("PROFILE", "SET", "NAME", "CORES")}
    found["PROFILE"], found["CORES"] = found["PROFILE"] or "auto", found["CORES"] or "all"
    for name in ("SET", "NAME"):
        if found[name] and name not in USED[target]:
            raise Refused(f"takes no {name}: {WHY_NOT[target]}")
    if target == "chapter" and not found["NAME"]:
        raise Refused("needs NAME=chapter, such as NAME=one_layer")
    cores(found["CORES"])
    resolve(found["PROFILE"], found["SET"], found["NAME"])
    experiments.entries()
    return found


def cores(text: str) -> str:
    """`all`, or a number of processor cores."""
    if text != "all" and not (text.isascii() and text.isdigit() and 0 < int(text) <= 4096):
        raise Refused(f"CORES={text}: expected all or a whole number of at least 1")
    return text


def resolve(profile: str, settings: str, only: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The profile that is meant, and the parameters of every chapter in it."""
    name = chapters.profile(profile)
    asked = chapters.parse(settings, chapters.known(only) if only else "")
    return name, {one: chapters.parameters(one, name, asked.get(one, {})) for one in chapters.chapters()}


# One build at a time -----------------------------------------------------------------------------------------------


@contextmanager
def lock(target: str) -> Iterator[None]:
    """Hold the lock of this folder; end what a killed build left running before, and what this one leaves after.

    :raises Refused: while another build holds it, with its process and what can be done
    """
    try:
        (BUILD / "cache" / "jupyter").mkdir(parents=True, exist_ok=True)
        file = (BUILD / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{error.filename}: cannot be written: {error.strerror}") from None
    with file:
        _acquire(file)
        try:
            end_leftovers()
            _sign(file, f"{os.getpid()} {os.getppid()} make {target}")
            yield
        finally:
            end_leftovers()


def _acquire(file: IO[str]) -> None:
    waited_until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            number, starter, command = [*file.read().split(" ", 2), "", "", ""][:3]
            if _goes_on(number, starter) or time.monotonic() > waited_until:
                raise Refused(f"`{command or 'make'}` is running in this folder, process {number or 'unknown'}; wait "
                              f"for it, or end it with `kill {number}`") from None
            time.sleep(0.1)


def _goes_on(number: str, starter: str) -> bool:
    """Whether the process lives, and what started it does; where it does not, the process is about to end."""
    with suppress(psutil.Error, ValueError):
        return psutil.Process(int(number)).ppid() == int(starter)
    return False


def _sign(file: IO[str], text: str) -> None:
    with suppress(OSError):  # a full disk: the lock holds all the same, without a name
        file.truncate(0)
        file.write(text)
        file.flush()


def end_leftovers() -> None:
    """Kill what is left of a build of this folder: a build whose head was killed leaves jobs and kernels behind."""
    left = [process for process in psutil.process_iter() if process.pid != os.getpid() and _is_of_build(process)]
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=PATIENCE)


def _is_of_build(process: psutil.Process) -> bool:
    with suppress(psutil.Error, OSError):
        return process.environ().get(MARK) == str(BUILD)
    return False


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, output: IO[str] | None = None) -> int:
    """Run a step of the build to its end.

    :param output: takes what it prints
    :raises Stopped: if `make`, which started this process, is gone
    """
    started_by = os.getppid()
    step = subprocess.Popen(command, cwd=ROOT, env={**surroundings(), **(environment or {})}, stdout=output)
    try:
        while (code := _poll(step)) is None:
            if "MAKELEVEL" in os.environ and os.getppid() != started_by:
                raise Stopped
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):  # the terminal has told the step as well: let it tidy up
            step.wait(PATIENCE)
        raise
    if code < 0:
        print(f"{command[0]} was ended by signal {-code}; the same command goes on from here", file=sys.stderr)
    return code if code >= 0 else 128 - code


def _poll(step: subprocess.Popen) -> int | None:
    try:
        return step.wait(0.2)
    except subprocess.TimeoutExpired:
        return None


def surroundings() -> dict[str, str]:
    """The environment of a build: this folder's own modules and tools, and no settings or caches of the user's."""
    cache = BUILD / "cache"
    own = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "jupyter",
           "JUPYTER_RUNTIME_DIR": "jupyter/runtime", "MPLCONFIGDIR": "matplotlib"}
    if not os.access(Path.home(), os.W_OK):
        own["XDG_CACHE_HOME"] = "."
    found = {**os.environ, **{name: str(cache / folder) for name, folder in own.items()}}
    found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    found |= {MARK: str(BUILD), "PYTHONUTF8": "1"}
    found.pop("RESULTS_DIR", None)
    return found


# Targets -----------------------------------------------------------------------------------------------------------


def book(settings: Mapping[str, str]) -> int:
    return snakemake(settings) or summary(BUILD / "results" / "ledger.json", BUILD / "html")


def chapter(settings: Mapping[str, str]) -> int:
    from pipeline import preview

    if code := snakemake(settings):
        return code
    name = settings["NAME"]
    print(f"Notebook: {BUILD / 'chapters' / name}.ipynb", flush=True)
    code, page = preview.render(name, run)
    print(f"Page: {page}" if page else "Page: not rendered (see above); `make book` renders all", flush=True)
    return code


def runs(settings: Mapping[str, str]) -> int:
    return snakemake(settings, "experiments")


def pages(settings: Mapping[str, str]) -> int:
    code = run(["python", "-m", "pipeline.pages", "_build/pages", "book", "results/chapters"])
    return code or summary(ROOT / "results" / "ledger.json", BUILD / "pages")


def pdf(settings: Mapping[str, str]) -> int:
    return pages(settings) or run(["python", "-m", "pipeline.pdf", "_build/pages", f"_build/{TITLE}.pdf"])


def archive(settings: Mapping[str, str]) -> int:
    return pages(settings) or run(["python", "-m", "pipeline.archive", "_build/pages", f"_build/{TITLE}.zip"])


def record(settings: Mapping[str, str]) -> int:
    return book(settings) or run(["python", "-m", "pipeline.record"])


def snakemake(settings: Mapping[str, str], *targets: str) -> int:
    """Run the workflow; the settings reach it through the environment, so that no shell reads them."""
    chosen = {f"BOOK_{name}": settings[name] for name in ("PROFILE", "SET", "NAME")}
    return run([*SNAKEMAKE, "--cores", settings["CORES"], "--", *targets], chosen)


def summary(ledger: Path, html: Path) -> int:
    """How the claims stand, and where the pages are."""
    code = run(["python", "-m", "pipeline.ledger", "--summary", str(ledger)])
    print(f"Pages: {html / 'index.html'}", flush=True)
    return code


TARGETS: dict[str, Callable[[Mapping[str, str]], int]] = {
    "book": book, "chapter": chapter, "experiments": runs, "pages": pages, "pdf": pdf, "archive": archive,
    "record": record}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
