"""Run tests on a mutant of one module of `lib`, in a process of its own, without changing a file.

Everything that tests need is imported once. For a mutant the process is forked; the child forgets the module and all
that imports it, finds the mutant's source in its place when it is imported again, and runs pytest until a test fails:
first the test files that import the module themselves, then the chapters' checks and the other tests that call what was
changed.

The processor time of a test is limited, by what it took on the module as it is. A mutant on which one takes longer
counts as killed, and is told apart.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import importlib
import importlib.machinery
import io
import json
import os
import re
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from lib.record import provenance
from pipeline import imports

TESTS, THEORY = imports.ROOT / "tests" / "theory", imports.ROOT / "lib" / "theory"
KEPT = imports.ROOT / "_build" / "mutants" / "outcomes.jsonl"
CHECKS = TESTS / "chapter_checks.py"
SLACK, TIMES = 10, 4  # processor time of a test: so many seconds, and so many times what it took without the mutation
SLOWEST = 250  # seconds of processor time of any test without the mutation, and of the collection of tests
_PYTEST = ("-q", "-o", "addopts=", "--import-mode=importlib", "--strict-markers", "-p", "no:cacheprovider",
           "-p", "_hypothesis_pytestplugin", "--rootdir", str(imports.ROOT))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one mutant ended."""

    fate: str  # one of `survivors.FATES`
    test: str  # the first that failed, if one did
    seconds: float  # of the clock
    kept: bool = False  # from an earlier run


Known = Mapping[str, Mapping[str, Any]]  # test -> its seconds of processor time, and what it calls


class Baseline:
    """A pytest plugin: how much processor time each test takes, which functions of the theory it calls, which fail."""

    def __init__(self) -> None:
        self.failed = list[str]()
        self.tests: dict[str, dict[str, Any]] = {}
        self._codes: dict[int, types.CodeType] = {}

    def pytest_runtest_setup(self, item: Any) -> None:
        limit(SLOWEST)
        self._codes.clear()
        self.tests[item.nodeid] = {"seconds": -time.process_time()}
        sys.settrace(self._called)

    def _called(self, frame: types.FrameType, event: str, arg: Any) -> None:
        self._codes[id(frame.f_code)] = frame.f_code

    def pytest_runtest_teardown(self, item: Any) -> None:
        sys.settrace(None)
        self.tests[item.nodeid]["seconds"] += time.process_time()
        self.tests[item.nodeid]["calls"] = sorted(
            {f"{Path(code.co_filename).stem}.{code.co_qualname.partition('.<locals>')[0]}"
             for code in self._codes.values() if Path(code.co_filename).parent == THEORY})

    def pytest_collectreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []


class Watch:
    """A pytest plugin for a mutant: which tests run, how long each may take, and which fails first.

    First those that call what was changed, quick ones first; then, of the test files that import the module, the rest.
    """

    def __init__(self, known: Known, module: str, function: str) -> None:
        self.known, self.module, self.function, self.failed = known, module, function, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.known and self._sees(item)),
                          key=lambda item: (not self._calls(item), self.known[item.nodeid]["seconds"]))

    def _sees(self, item: Any) -> bool:
        return self.module in named(item.path) or self._calls(item)

    def _calls(self, item: Any) -> bool:
        """Whether a test calls the function, or what it stands in or holds; any of the module if it stands in none."""
        short = self.module.rpartition(".")[2]
        called = [call.removeprefix(f"{short}.") for call in self.known[item.nodeid]["calls"]
                  if call.startswith(f"{short}.")]
        return any(self.function == "<module>" or f"{self.function}.".startswith(f"{name}.")
                   or name.startswith(f"{self.function}.") for name in called)

    def pytest_runtest_setup(self, item: Any) -> None:
        limit(SLACK + TIMES * self.known[item.nodeid]["seconds"])

    def pytest_collectreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


class Suite:
    """The tests of the theory, and the outcomes that are known already.

    :raises RuntimeError: if a test fails on the modules as they are
    """

    def __init__(self) -> None:
        prepare()
        self.files = sorted(TESTS.glob("test_*.py"))
        self.kept = kept_outcomes()
        self.known = self._unchanged()

    def _unchanged(self) -> Known:
        """The tests that are run on mutants, from an earlier run of the same code where there is one."""
        code = digest([*(imports.ROOT / "lib").rglob("*.py"), *self.files], "claims")
        kept = KEPT.with_name(f"tests_{code[:12]}.json")
        if not kept.exists():
            print(f"the tests without a mutation: {len(self.files)} files and the chapters' checks", flush=True)
            found = in_child(lambda: baseline([*self.files, CHECKS]))
            if not found or found["failed"]:
                failed = ", ".join(found["failed"]) if found else "out of time"
                raise RuntimeError(f"tests fail without any mutation: {failed}")
            provenance.write_json(kept, found["tests"])
        return json.loads(kept.read_text(encoding="utf-8"))

    def outcome(self, module: str, function: str, source: str, identity: str) -> Outcome:
        """Run the tests of a module on a mutant of it.

        :param module: dotted name
        :param function: that the mutation stands in
        :raises RuntimeError: if the tests, or what they import, change meanwhile
        """
        code, started = self.code(module), time.perf_counter()
        if (code, identity) in self.kept:
            return self.kept[code, identity]

        def run() -> dict[str, Any]:
            put_in_place(module, source)
            return {"failed": first_failure(self.stages(module), Watch(self.known, module, function))}

        found = in_child(run)
        if self.code(module) != code:
            raise RuntimeError("lib or its tests were changed while mutants ran; start again")
        fate = "timeout" if found is None else "killed" if found["failed"] else "survived"
        outcome = Outcome(fate, found["failed"] if found else "", round(time.perf_counter() - started, 2))
        keep(code, identity, outcome)
        return outcome

    def stages(self, module: str) -> list[list[Path]]:
        """The test files that import the module themselves, the chapters' checks, and the files that reach it."""
        near = [file for file in self.files if module in named(file)]
        far = [file for file in self.files if file not in near and reaches(file, module)]
        return [stage for stage in (near, [CHECKS], far) if stage]

    def code(self, module: str) -> str:
        """SHA-256 of all that the outcome of a module's mutants depends on."""
        files = {file for stage in self.stages(module) for file in stage}
        reached = imports.closure({module}.union(*map(named, files)))
        return digest([*files, *reached], module.rpartition(".")[2])


# What imports what -----------------------------------------------------------------------------------------------


@functools.cache
def named(file: Path) -> frozenset[str]:
    """What a file imports itself, dotted."""
    return frozenset(imports.imports(file.read_text(encoding="utf-8")))


@functools.cache
def reaches(file: Path, module: str) -> bool:
    """Whether a test file imports the module, directly or through others."""
    return imports.module_file(module) in imports.closure(sorted(named(file)))


def digest(files: Iterable[Path], word: str) -> str:
    """SHA-256 of files, of what every test depends on, and of the code of those chapters that has a word in it."""
    every = [Path(__file__), *(imports.ROOT / name for name in (
        "conftest.py", "tests/conftest.py", "tests/theory/conftest.py", "requirements.lock"))]
    parts = [file.read_bytes() for file in sorted({*files, *every})]
    for chapter in sorted((imports.ROOT / "book").glob("*.md")):
        cells = "".join(re.findall(r"^```\{code-cell\}.*?^```", chapter.read_text(encoding="utf-8"), re.M | re.S))
        parts += [cells.encode()] if word in cells else []
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def kept_outcomes() -> dict[tuple[str, str], Outcome]:
    """Outcomes of earlier runs, by the digest of the code and the mutant's identity."""
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    return {(each["code"], each["mutant"]): Outcome(each["fate"], each["test"], each["seconds"], kept=True)
            for each in map(json.loads, lines)}


def keep(code: str, identity: str, outcome: Outcome) -> None:
    """Add one outcome to those that a later run finds."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    line = {"code": code, "mutant": identity, **dataclasses.asdict(outcome)}
    with KEPT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


# One process a mutant --------------------------------------------------------------------------------------------


def prepare() -> None:
    """Import all that the tests import, `lib` with its types checked as pytest has them checked."""
    import hypothesis
    import jaxtyping
    import torch

    torch.set_num_threads(1)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    jaxtyping.install_import_hook("lib", "beartype.beartype")
    files = [*TESTS.glob("*.py"), imports.ROOT / "tests" / "conftest.py"]
    for name in sorted(set().union(*map(named, files)) | {"pytest", "_pytest.assertion", "matplotlib.pyplot"}):
        try:
            importlib.import_module(name)
        except ImportError:  # a name within a module, or a file beside the tests
            continue
    gc.collect()
    gc.freeze()  # no child looks through all of this again


def put_in_place(module: str, source: str) -> None:
    """Have the next import of a module find this source, and forget the module and all that imports it."""
    sys.dont_write_bytecode = True
    path = str(imports.module_file(module))
    read = importlib.machinery.SourceFileLoader.get_data

    def get_data(loader: Any, file: str) -> bytes:
        if loader.path != path:
            return read(loader, file)
        if file != path:  # compiled, of the module as it is
            raise OSError(file)
        return source.encode()

    importlib.machinery.SourceFileLoader.get_data = get_data  # type: ignore[method-assign,assignment]
    for name in [name for name in sys.modules if name.startswith("lib.") and _depends(name, path)]:
        del sys.modules[name]
        package, _, own = name.rpartition(".")
        if hasattr(sys.modules.get(package), own):
            delattr(sys.modules[package], own)


@functools.cache
def _depends(name: str, path: str) -> bool:
    return Path(path) in imports.closure([name])


def baseline(files: list[Path]) -> dict[str, Any]:
    """Run all tests of the files on the modules as they are."""
    plugin = Baseline()
    pytest_on(files, plugin)
    return {"failed": plugin.failed, "tests": plugin.tests}


def first_failure(stages: list[list[Path]], watch: Watch) -> str:
    """Run the files of each stage until a test fails; the test, or nothing if all pass."""
    import pytest

    for files in stages:
        status = pytest_on(files, watch, "-x")
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return watch.failed or f"pytest ended with {status!r}"
    return ""


def pytest_on(files: list[Path], plugin: Baseline | Watch, *options: str) -> int:
    """Run pytest in this process; returns its status."""
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # seconds of imports
    limit(SLOWEST)
    return pytest.main([*_PYTEST, *options, *map(str, files)], plugins=[plugin])


def limit(seconds: float) -> None:
    """Let this process end after so much more processor time, or sixty times as much on the clock."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 1, most))
    signal.alarm(int(60 * seconds))


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a function returns in a forked process; nothing if `limit` ends the process.

    :raises RuntimeError: if the function raises
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(work, writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if text:
        return json.loads(text)
    if status >= 0:
        raise RuntimeError(f"the process of a mutant ended with {status}")
    return None if status in (-signal.SIGXCPU, -signal.SIGALRM) else {"failed": f"signal {-status}"}


def _child(work: Callable[[], dict[str, Any]], writing: int) -> NoReturn:
    """Write what the function returns, and end the process."""
    try:
        silent = io.FileIO(os.devnull, "r+")
        for stream in (0, 1, 2):
            os.dup2(silent.fileno(), stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for end in (signal.SIGXCPU, signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(end, signal.SIG_DFL)
        found = json.dumps(work()).encode()
        while found:
            found = found[os.write(writing, found):]
        os._exit(0)
    finally:
        os._exit(1)
