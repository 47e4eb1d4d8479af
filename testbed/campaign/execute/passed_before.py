"""Gates that were passed before on the very same engine: taken from the cache, and believed after a look at this machine.

What the gates of an engine show depends on its files, its settings, the images, the program and the machine; all of that
names the cache's entry. What is not named there is caught by what each campaign runs all the same: parity and drift, the
golden of every image against the one of then, a batch of zero-fault rows, and a loud fault in a weight.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from testbed.campaign.cache_note import CacheNote
from testbed.campaign.evaluate.weights.in_place import weight_canary
from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace, golden_hash
from testbed.campaign.gate_facts import WeightGate, ZeroFaultFacts
from testbed.campaign.reuse.entries import Entry
from testbed.campaign.reuse.reuse import Reuse
from testbed.core.errors import EngineError, TestbedError
from testbed.core.folder.forms import AnyForm, Form
from testbed.core.folder.parsing import json_copy
from testbed.core.site import Site

log = logging.getLogger(__name__)


class EngineDiffers(TestbedError):
    """This machine's engine does something else than the one on which a gate was passed."""


class PassedGate(Form):
    """What the cache keeps of a gate. facts: what it found; golden: hash of the engine's golden outputs."""

    facts: dict[str, Any]
    golden: str


class PassedBefore:
    """Runs the gates of one campaign, but for those that were passed before. ``notes``: these, and from when they are."""

    def __init__(self, workplace: Workplace, reuse: Reuse) -> None:
        self.workplace, self.reuse = workplace, reuse
        self.notes: dict[str, CacheNote] = {}
        self._unkept: list[tuple[str, Callable[[], None]]] = []

    def gate(
        self,
        gate: str,
        engine: CampaignEngine,
        form: type[AnyForm],
        run: Callable[[], AnyForm],
        *,
        sites: Sequence[Site] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> AnyForm:
        """What a gate found of an engine: before, or now.

        sites: those that it is about, where it is not about the whole engine. settings: what else it depends on, as JSON.
        Raises EngineDiffers where the engine gives another golden than it did before.
        """
        if self.reuse.cache is None:
            return run()
        name = _name(gate, engine)
        made_from = self._made_from(engine, sites, settings or {})
        golden = golden_hash(engine)
        entry = self.reuse.take(f"gates.{name}", made_from)
        before = None if entry is None else _read(entry, form)
        if entry is not None and before is not None:
            if before[1] != golden:
                raise EngineDiffers(
                    f"the engine of {_engine_name(engine)} gives other golden bits than on {entry.note.date}"
                )
            self.notes[name] = entry.note
            return before[0]
        self.notes.pop(name, None)  # of another batch
        start = time.perf_counter()
        facts = run()
        content, seconds = PassedGate(facts=facts.to_json(), golden=golden).to_json(), time.perf_counter() - start
        self._unkept.append((name, lambda: self.reuse.keep(f"gates.{name}", made_from, content, seconds)))
        return facts

    def failed(self, gate: str, engine: CampaignEngine) -> None:
        """Does not keep what a gate found: it does not hold."""
        self._unkept = [(name, keep) for name, keep in self._unkept if name != _name(gate, engine)]

    def was_passed(self, gate: str, engine: CampaignEngine) -> bool:
        """Whether a gate was not run here, but passed before."""
        return _name(gate, engine) in self.notes

    def keep(self) -> None:
        """Keeps the gates that were run here, now that all of them hold."""
        for _, keep in self._unkept:
            keep()

    def note(self) -> list[str]:
        """What to say of the gates that were not run here: one line, or none."""
        if not self.notes:
            return []
        dates = " and ".join(sorted({note.date for note in self.notes.values()}))
        gates = ", ".join(dict.fromkeys(name.split(".")[0] for name in self.notes))
        return [
            f"{len(self.notes)} results are taken from the cache, as passed on {dates} ({gates}); here the goldens are the"
            " same, bit for bit, and some zero-fault rows are golden"
        ]

    def _made_from(self, engine: CampaignEngine, sites: Sequence[Site], settings: Mapping[str, Any]) -> dict[str, Any]:
        workplace, target, files = self.workplace, engine.target, Files(engine.target)
        request = workplace.request(target, files.twin)
        outputs = {
            file: digest for record in workplace.folder.stages.values() for file, digest in record.outputs.items()
        }
        made_from = {
            "place": _engine_name(engine),
            "files": {file: outputs[file] for file in (files.plain, files.twin, files.sites, files.inputs)},
            "engine": json_copy(asdict(engine.runner.info)),
            "batch": engine.batch,
            "tuned_batch": request.max_batch,
            "threads": request.threads,
            "most_points": request.max_points,
            "seed": workplace.spec.seed,
            "strikes": [site.name for site in sites],
            "settings": dict(settings),
        }
        return self.reuse.with_program(made_from, on_engine=True)


def check_zero_faults(engine: CampaignEngine, run: Callable[[int], ZeroFaultFacts]) -> None:
    """Runs a batch of zero-fault rows, of one fault where the weights are faulty. run: runs so many faults.

    Raises EngineDiffers where they are not golden.
    """
    facts = run(engine.batch if engine.where == "activation" else 1)
    if facts.mismatches:
        raise EngineDiffers(
            f"{facts.mismatches} of {facts.rows} zero-fault rows of {_engine_name(engine)} are not golden here"
        )


def check_weight(engine: CampaignEngine, gate: WeightGate, sites: Sequence[Site]) -> None:
    """Injects a loud fault into the first weight that may be changed. Raises EngineDiffers where it is not seen, or stays."""
    left_out = {weight.site for weight in gate.left_out}
    try:
        weight_canary(engine, [site for site in sites if site.name not in left_out][:1])
    except EngineError as error:
        raise EngineDiffers(f"{_engine_name(engine)}: {error}") from error


def _engine_name(engine: CampaignEngine) -> str:
    return f"{engine.target}.{engine.where}"


def _name(gate: str, engine: CampaignEngine) -> str:
    return f"{gate}.{_engine_name(engine)}"


def _read(entry: Entry, form: type[AnyForm]) -> tuple[AnyForm, str] | None:
    """What was found, and the golden then; None for what no gate of this version writes, which is told."""
    try:
        passed = PassedGate.model_validate(entry.facts)
        return form.model_validate(passed.facts), passed.golden
    except ValidationError as error:
        log.warning("cache: %s is not used, since it holds no gate (%s)", entry.note.key, error.errors()[0]["msg"])
        return None
