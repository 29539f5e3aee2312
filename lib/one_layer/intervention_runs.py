"""Recorded runs of the interventions, found by what they trained: this build's, and the full ones of two chapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lib.one_layer import results
from lib.one_layer.results import RecordedRun, Runs
from lib.record import provenance

NamedRuns = Mapping[str, RecordedRun | None]  # name -> run, None where it is not recorded
ENCODING_NAMES = {"rope": "RoPE", "learned": "learned absolute"}
RECORDED_LENGTHS = (10, 20, 30, 40)
#: the part of the loss whose absence restores reverse recall, see `lib.one_layer.interventions`
BLOCKING = "drop_right_of_capital"
#: as much of the loss dropped elsewhere
CONTROLS = ("drop_random", "drop_left_of_capital", "drop_left_of_letter")
#: what sets a run apart from our recipe, by name
CASES: dict[str, dict[str, Any]] = {
    "RoPE": {"encoding": "rope"}, "direction-aware ALiBi": {"encoding": "alibi_directional"},
    "T5 bias": {"encoding": "t5"}, "learned absolute": {"encoding": "learned"},
    "sinusoidal": {"encoding": "sinusoidal"}, "none": {"encoding": "none"},
    "RoPE, position in the values": {"encoding": "rope", "values": "laden"},
    "learned, no position in the values": {"encoding": "learned", "values": "free"},
    "RoPE, fixed rate 15 %": {"encoding": "rope", "objective": "fixed_rate"},
    "RoPE, one mask a sequence": {"encoding": "rope", "intervention": "one_mask"},
    "RoPE, one question a sequence": {"encoding": "rope", "intervention": "one_question"},
    "RoPE, depth 2": {"encoding": "rope", "depth": 2}, "RoPE, depth 4": {"encoding": "rope", "depth": 4},
    "symmetric ALiBi": {"encoding": "alibi"}, "next token": {"encoding": "learned", "objective": "autoregressive"},
}
#: encodings and kinds of values over which signatures are compared with reverse accuracy
ENCODINGS_AND_VALUES = (
    "RoPE", "RoPE, position in the values", "learned absolute", "learned, no position in the values", "sinusoidal",
    "T5 bias", "symmetric ALiBi", "direction-aware ALiBi", "none")


@dataclasses.dataclass(frozen=True)
class Sources:
    """Runs that share settings, by where they were made."""

    build: Runs  # at hand, quick ones mostly
    recorded: Runs  # full runs of the interventions
    tables: Runs  # full runs of the one-layer tables

    @property
    def every(self) -> Runs:
        """All full runs."""
        return self.recorded + self.tables

    def items(self) -> Iterable[tuple[str, Runs]]:
        """The runs of the interventions, by the words for where they were made."""
        return {"this build": self.build, "recorded": self.recorded}.items()

    def either(self, **what: Any) -> RecordedRun | None:
        """The recorded run, or else this build's."""
        return results.first((self.recorded, self.build), **what)

    def named(self, *names: str) -> NamedRuns:
        """The full run of each of these `CASES`, one with interventions measured where there is one."""
        return {name: results.first((self.recorded, self.tables), **CASES[name]) for name in names}

    def kinds(self) -> NamedRuns:
        """The longest full run of each of `ENCODINGS_AND_VALUES`."""
        return {name: self.every.find(**CASES[name]) for name in ENCODINGS_AND_VALUES}

    def usual(self) -> dict[str, RecordedRun]:
        """The run without an intervention of each encoding, by the encoding's words."""
        found = {words: self.either(encoding=encoding) for encoding, words in ENCODING_NAMES.items()}
        return {words: run for words, run in found.items() if run is not None}

    def by_length(self, *interventions: str) -> dict[int, NamedRuns]:
        """The full RoPE run of each intervention at each of `RECORDED_LENGTHS`."""
        return {length: {name: self.every.find(encoding="rope", length=length, intervention=name)
                         for name in interventions} for length in RECORDED_LENGTHS}

    def blocking_and(self, control: str) -> list[tuple[str, str, NamedRuns]]:
        """Pairs of runs without the blocking loss and under a control: where made, encoding, the two runs.

        Where there is no pair at all there is one entry without runs, so that a check can say so.
        """
        names = (BLOCKING, control)
        found: list[tuple[str, str, NamedRuns]] = [
            (source, words, dict(zip(names, pair, strict=True)))
            for source, runs in self.items() for encoding, words in ENCODING_NAMES.items()
            if (pair := runs.by_intervention(names, encoding=encoding))]
        return found or [("recorded", "RoPE", dict.fromkeys(names))]

    def by_reversed_share(self) -> NamedRuns:
        """Full RoPE runs by the share of training sequences in the other order, the last one with a wrong letter."""
        shares = {"0 %": (0.0, "none"), "0.1 %": (0.001, "none"), "1 %": (0.01, "none"), "10 %": (0.1, "none"),
                  "10 %, wrong letters": (0.1, "strangers")}
        return {name: self.recorded.find(encoding="rope", reversed_share=share, intervention=kind)
                for name, (share, kind) in shares.items()}


def sources(settings: Mapping[str, Any], profile: str, seeds: Sequence[int], **given: Any) -> Sources:
    """The runs with these settings: this build's, the full ones of the interventions, and those of the tables.

    :param given: further options of this build's runs, for the message
    :raises FileNotFoundError: if the build has no run under RoPE; the message is the command that makes it
    """
    build = Runs.of(provenance.results("beyond"), settings, profile, seeds)
    file = provenance.results_folder() / "beyond" / f"{profile}_rope_none.json"
    build.require(file, seeds, {**given, "profile": profile}, encoding="rope")
    return Sources(build, *(Runs.of(results.recorded_runs(name), settings, "full") for name in ("beyond", "one_layer")))
