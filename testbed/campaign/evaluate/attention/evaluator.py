"""Faults inside the attention subnetwork, each evaluated no further than it reaches.

A site's *path* is what its faults are evaluated by, fastest first: ``incremental`` (v and k: golden output plus change,
to within a bound; see `attention_incremental`), ``rows`` (exact, only what can change; `attention_rows`), ``suffix``
(exact, from the site on; `attention_suffix`), ``whole`` (the instrumented engine). Paths are proven per engine before
they are used (`attention_gate`). An incremental result whose exact outcome could be another one, or that is not covered
by the analysis (infinities, NaN, huge numbers), is not used: such a fault takes the path ``rows``. So outcomes are those
of exact evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.attention.bounds import output_scale
from testbed.campaign.evaluate.attention.changes import CHANGES, Changes
from testbed.campaign.evaluate.attention.golden import AttentionGoldens, AttentionTarget, ImageGolden
from testbed.campaign.evaluate.attention.graphs import KINDS, projection_weight, stages
from testbed.campaign.evaluate.attention.rows import FaultyElements, RowPath
from testbed.campaign.evaluate.attention.stage_engines import Sizes, StageEngines
from testbed.campaign.evaluate.attention.suffix import SuffixPath
from testbed.campaign.evaluate.contract import Evaluated, Evaluator, Injections, NotDeterministic
from testbed.campaign.proofs import AttentionRecord
from testbed.core.arrays import Float32s, Float64s, Int64s
from testbed.core.outcome import How
from testbed.instrument.ports.feed import NO_SITE
from testbed.semantics import as_words

_BUDGET_BYTES = 512 * 2**20
_TELLING_ROWS = 4
_CHUNK_BYTES = 16 * 2**20  # outputs of a piece: more amortise what is done once per piece, and still stay near


@dataclass(frozen=True)
class AttentionPaths:
    """How each kind of site is evaluated. path: kind of site -> incremental, rows, suffix or whole; sizes: see
    `StageEngines`."""

    path: Mapping[str, str]
    sizes: Sizes

    @classmethod
    def of(cls, record: AttentionRecord) -> AttentionPaths:
        """What the gate (`testbed.campaign.evaluate.attention.gate.prove_attention`) allows."""
        return cls({kind: site.path for kind, site in record.sites.items()}, record.sizes)

    @property
    def useful(self) -> bool:
        """Whether there is a site for which less than the whole is run."""
        return any(path != "whole" for path in self.path.values())


@dataclass(frozen=True)
class EvaluationCounts:
    """Injections by how they were evaluated. ``fallback_share``: of those that could be incremental, the share that was
    not, near a decision or not covered by the bound."""

    injections: int
    how: dict[str, int]
    near_decision: int
    not_covered: int
    fallback_share: float


class AttentionEvaluator:
    """An `Evaluator`. atol: (images,) of each named image, and rtol: what outcomes are judged by."""

    def __init__(
        self,
        target: AttentionTarget,
        fallback: Evaluator,
        paths: AttentionPaths,
        atol: NDArray[np.float64],
        rtol: float,
        budget: int = _BUDGET_BYTES,
    ) -> None:
        """Takes what the gates have proven. fallback: the whole twin. budget: bytes of golden tensors that may be kept.
        Raises EngineError."""
        self.target, self.fallback, self.paths = target, fallback, paths
        self.atol, self.rtol = atol, rtol
        self.goldens = AttentionGoldens(target, fallback.golden, budget)
        models = stages(target.plain, target.sites) if {"rows", "incremental"} & set(paths.path.values()) else {}
        self.rows = RowPath(target.sites, StageEngines(models, target.open, paths.sizes, target.sites.turned))
        self.suffix = SuffixPath(target)
        self._weight = projection_weight(target.plain, target.sites)
        self._kinds = target.sites.kind_of_port(target.table)
        self._chunk = max(2, _CHUNK_BYTES // (4 * target.sites.site["proj"].elements))
        self._counts: Counter[str] = Counter()

    @property
    def golden(self) -> Float32s:
        return self.fallback.golden

    def counts(self) -> EvaluationCounts:
        """Count the injections so far."""
        eligible = self._counts["incremental"] + self._counts["near"] + self._counts["unusable"]
        fallbacks = self._counts["near"] + self._counts["unusable"]
        how = {how.name.lower(): self._counts[how.name.lower()] for how in How if self._counts[how.name.lower()]}
        return EvaluationCounts(
            injections=sum(how.values()),
            how=how,
            near_decision=self._counts["near"],
            not_covered=self._counts["unusable"],
            fallback_share=fallbacks / eligible if eligible else 0.0,
        )

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        for evaluated in self._evaluated(injections):
            for how in How:
                self._counts[how.name.lower()] += int((evaluated.how == how).sum())
            yield evaluated

    def close(self) -> None:
        """The engines that it opened; the fallback is the caller's."""
        self.goldens.close()
        self.suffix.close()
        self.rows.stages.close()

    def _evaluated(self, injections: Injections) -> Iterator[Evaluated]:
        injections.ports.as_inputs(self.target.table)  # refuses an index past a tensor's end
        kind, point = self._kind(injections)
        whole = np.flatnonzero(kind < 0)
        if len(whole):
            for evaluated in self.fallback.evaluate(injections.take(whole)):
                yield replace(evaluated, rows=whole[evaluated.rows])
        in_parts = np.flatnonzero(kind >= 0)
        images = np.unique(injections.image[in_parts]).tolist()
        for start in range(0, len(images), self.goldens.most):
            goldens = self.goldens.load(images[start : start + self.goldens.most])
            here = in_parts[np.isin(injections.image[in_parts], list(goldens))]
            for number in np.unique(kind[here]):
                yield from self._of_kind(KINDS[number], injections, point, here[kind[here] == number], goldens)

    def _kind(self, injections: Injections) -> tuple[Int64s, Int64s]:
        """(n,) number in KINDS, -1 for what goes the whole way; (n,) which of a strike's points is the one struck."""
        injected = injections.ports.site != NO_SITE
        point = injected.argmax(axis=1)
        kind = np.where(
            injected.sum(axis=1) == 1, self._kinds[injections.ports.site[np.arange(len(injections)), point]], -1
        )
        known = np.array([self.paths.path.get(name, "whole") != "whole" for name in KINDS])
        return np.where((kind >= 0) & known[kind], kind, -1), point

    def _of_kind(
        self, kind: str, injections: Injections, point: Int64s, rows: Int64s, goldens: Mapping[int, ImageGolden]
    ) -> Iterator[Evaluated]:
        rows = rows[np.argsort(injections.image[rows], kind="stable")]
        at = rows, point[rows]
        index = self.target.sites.index_in(kind, injections.ports.index[at])
        injected = FaultyElements(kind, injections.image[rows], index, injections.ports.faulty[at])
        self._check(injected, injections.ports.golden[at], goldens)
        evaluate = {"incremental": self._incremental, "rows": self._exact, "suffix": self._from_site}
        for start in range(0, len(rows), self._chunk):
            chunk = np.arange(start, min(start + self._chunk, len(rows)))
            for evaluated in evaluate[self.paths.path[kind]](injected.take(chunk), goldens):
                yield replace(evaluated, rows=rows[chunk[evaluated.rows]])

    def _check(self, injected: FaultyElements, words: NDArray[np.uint32], goldens: Mapping[int, ImageGolden]) -> None:
        """Raises NotDeterministic where the golden run does not hold the word that the fault was computed from."""
        held = np.array(
            [
                as_words(goldens[image][injected.kind].reshape(-1))[index]
                for image, index in zip(injected.image.tolist(), injected.index.tolist(), strict=True)
            ],
            np.uint32,
        )
        if len(wrong := np.flatnonzero(held != words)):
            first = wrong[0]
            raise NotDeterministic(
                f"{self.target.sites.site[injected.kind].name}[{injected.index[first]}] was {held[first]:#x} in one golden run"
                f" and {words[first]:#x} in another: this engine is not deterministic at these settings"
            )

    def _exact(
        self, injected: FaultyElements, goldens: Mapping[int, ImageGolden], columns: Float32s | None = None
    ) -> Iterator[Evaluated]:
        outputs, unchanged = self.rows.outputs(injected, goldens, self.golden, columns)
        evaluated = Evaluated.exact(np.arange(len(injected)), outputs, How.ROWS)
        evaluated.how[unchanged] = How.UNCHANGED
        yield evaluated

    def _from_site(self, injected: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Iterator[Evaluated]:
        yield Evaluated.exact(np.arange(len(injected)), self.suffix.outputs(injected, goldens), How.SUFFIX)

    def _incremental(self, injected: FaultyElements, goldens: Mapping[int, ImageGolden]) -> Iterator[Evaluated]:
        assert self._weight is not None
        columns, before = self.rows.columns(injected, goldens), self.rows.golden_columns(injected, goldens)
        changes = CHANGES[injected.kind](injected, columns, before, goldens, self._weight, self.target.sites)
        span = np.array([output_scale(goldens[image], self._weight).largest for image in injected.image.tolist()])
        settled, faint = changes.verdict(injected.image, self.golden, span, self.atol[injected.image], self.rtol)
        injection, token, exact = self._telling_rows(injected, goldens, columns, changes, faint)
        settled[injection] = True
        self._counts["near"] += int((changes.usable & ~settled).sum())
        self._counts["unusable"] += int((~changes.usable).sum())
        taken, rest = np.flatnonzero(settled), np.flatnonzero(~settled)
        if len(taken):
            outputs = changes.outputs(taken, injected.image[taken], self.golden)
            outputs[np.searchsorted(taken, injection), token] = exact
            how = np.full(len(taken), How.INCREMENTAL, np.int8)
            yield Evaluated(taken, outputs, how, rounded_up(changes.bound[taken]))
        if len(rest):
            for evaluated in self._exact(injected.take(rest), goldens, columns[rest]):
                yield replace(evaluated, rows=rest[evaluated.rows])

    def _telling_rows(
        self,
        injected: FaultyElements,
        goldens: Mapping[int, ImageGolden],
        columns: Float32s,
        changes: Changes,
        faint: NDArray[np.bool_],
    ) -> tuple[Int64s, Int64s, Float32s]:
        """(strike, token, rows (m, D)): exact rows that are not golden, of faint changes, where they move most.

        A row that is not golden says that the output is not identical, and makes the incremental one so, too.
        """
        asked = np.flatnonzero(faint)
        if not len(asked):
            return asked, asked, np.empty((0, self.golden.shape[2]), np.float32)
        most = min(_TELLING_ROWS, columns.shape[1] - 1)
        tokens = np.zeros((len(asked), columns.shape[1]), bool)
        np.put_along_axis(tokens, np.argpartition(-changes.rows[asked], most, axis=1)[:, :most], True, axis=1)
        position, token, rows = self.rows.rows(injected.take(asked), goldens, columns[asked], tokens)
        injection = asked[position]
        differ = (as_words(rows) != as_words(self.golden[injected.image[injection], token])).any(axis=1)
        return injection[differ], token[differ], rows[differ]


def rounded_up(values: Float64s) -> Float32s:
    """Rounds to float32, never below the value."""
    narrow = values.astype(np.float32)
    return np.where(narrow < values, np.nextafter(narrow, np.float32(np.inf)), narrow)
