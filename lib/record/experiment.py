"""The life of a recorded run: checks, checkpoint, result; the same for whatever is trained or measured.

    def work(asked: Options) -> None:
        parameters = dataclasses.asdict(asked.training)
        with recording({asked.out: parameters}, experiment="one_layer", seeds=asked.seeds, device=device,
                       identity={"points": asked.points}) as run:
            state = run.checkpoint.load()  # tensors and progress of an interrupted run, or None
            ...
            if run.checkpoint.due():
                run.checkpoint.save(tensors, {"step": step})
            ...
            run.save(metrics, curves)

    main = options.command(Options, work)

Before the block runs, everything that would spoil the result at its end has been looked at: the file and its folder,
what lies there already, parameters that JSON cannot hold. When it ends, the checkpoint is removed. When it fails or is
interrupted, the checkpoint stays, and the error says so (`lib.record.endings.one_line` prints it).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.record import accepted, claims_file, provenance
from lib.record.training_state import Checkpoint


@dataclasses.dataclass(frozen=True)
class Recording:
    """A run that is going on.

    :ivar checkpoint: of the run, to go on from and to save to
    :ivar run: its provenance
    """

    results: Mapping[Path, Mapping[str, Any]]
    experiment: str
    seeds: Sequence[int]
    checkpoint: Checkpoint
    run: provenance.Run
    registered: Mapping[str, str] | None = None

    def save(self, metrics: Mapping[str, Any], curves: Mapping[str, Any], *, out: Path | None = None,
             **found: Any) -> provenance.Result:
        """Write a result.

        :param metrics: one value a seed
        :param out: which result, where the run makes several
        :param found: further parameters, known only now, such as a model's size
        :raises ValueError: for a number that is not finite
        :raises OSError: naming the file
        """
        path = out or next(iter(self.results))
        return provenance.save(
            path, experiment=self.experiment, parameters={**self.results[path], **found}, seeds=self.seeds,
            metrics=metrics, curves=curves, run=self.run, registered=self.registered, before=self.checkpoint.seconds)


@contextlib.contextmanager
def recording(
    results: Mapping[Path, Mapping[str, Any]],
    *,
    experiment: str,
    seeds: Sequence[int],
    identity: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    folders: Mapping[str, Path] | None = None,
    device: Any = "cpu",
    processes: int = 1,
    writes: bool = True,
    registered: Mapping[str, str] | None = None,
) -> Iterator[Recording]:
    """The run that makes these results, checked before it starts.

    :param results: the file of each result, and the parameters it will hold; most runs make one
    :param identity: what else changes the results, so that a checkpoint fits only if it agrees
    :param defaults: parameters that an older result may not hold, and what they were
    :param checkpoint: where it is kept; beside the first result where not said
    :param folders: option -> folder that the run writes to as well; one that is new and stays empty goes if it fails
    :param device: that the run computes on
    :param processes: that share it
    :param writes: whether this is the process that writes
    :param registered: the claims that the run serves, claim -> digest; those whose prediction names the experiment
      where not said
    :raises ValueError: for what can be no result's file, what is there and is another result, and parameters that
      cannot be recorded
    :raises lib.record.training_state.CheckpointError: when a checkpoint is loaded that is another run's, or damaged
    """
    first = next(iter(results))
    for out, parameters in results.items():
        finished(out, experiment=experiment, parameters=parameters, seeds=seeds, defaults=defaults)
    path = checkpoint or first.with_name(f".{first.name}.checkpoint")
    places = ("--out", first.parent), ("--work", path.parent), *(folders or {}).items()
    made: list[Path] = []  # the innermost first
    for name, folder in places:
        made = [*accepted.writable(name, folder), *made]
    runs = [{**parameters, "out": out.name} for out, parameters in results.items()]
    told = {**(results[first] if len(runs) == 1 else {"runs": runs}), "seeds": list(seeds)}
    run = provenance.Run(device, together=len(results), processes=processes)
    going = Recording(results, experiment, seeds, Checkpoint(path, told, identity), run,
                      claims_file.registered_for(experiment) if registered is None else registered)
    try:
        yield going
    except BaseException as error:
        _leave(error, path, made)
        raise
    if writes:
        going.checkpoint.remove()


def finished(
    out: Path, *, experiment: str, parameters: Mapping[str, Any], seeds: Sequence[int],
    defaults: Mapping[str, Any] | None = None, name: str = "--out",
) -> provenance.Result | None:
    """The result of this very run, if it is there already; nothing if its file is still to be made.

    :param name: of the option that ``out`` comes from
    :raises ValueError: for what can be no result's file, and for a file that is anything else
    """
    accepted.json_file(name, out)
    provenance.check_finite(parameters, out)
    if not out.exists():
        return None
    try:
        there = provenance.load(out)
    except ValueError as error:
        raise ValueError(f"{name} {error}; or choose another file, this one is left as it is") from None
    holds = {"experiment": there["experiment"], **(defaults or {}), **there["parameters"], "seeds": there["seeds"]}
    wanted = {"experiment": experiment, **parameters, "seeds": list(seeds)}
    provenance.check_same({"parameters": holds}, wanted, f"{name} {out}: holds a result with")
    return there


def _leave(error: BaseException, checkpoint: Path, made: Sequence[Path]) -> None:
    """Say what is kept of a run that ends early, and take away folders that nothing was written to."""
    if checkpoint.exists() and not isinstance(error, ValueError):  # which refuses what was asked for, or the checkpoint
        error.add_note(f"{checkpoint} is kept, and the same command goes on from it")
    elif not isinstance(error, Exception):  # interrupted
        error.add_note("nothing is kept yet, and the same command begins anew")
    for folder in made:
        with contextlib.suppress(OSError):  # something is in it
            folder.rmdir()
