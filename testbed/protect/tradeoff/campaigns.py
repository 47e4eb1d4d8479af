"""The campaigns of a trade-off: sorted into plain and protected by the files that they ran, paired by fault model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.bench.latency import plain_request
from testbed.campaign.files import Files
from testbed.core.errors import UsageError
from testbed.instrument.table import deployment_id
from testbed.protect.paired.model_pairs import MODEL
from testbed.protect.paired.pairing import PairedRows, pair_rows
from testbed.protect.paired.sides import PairedSide, PairedSides

FaultModelKey = tuple[str, str, str]
"""Target, where, and the operation with its pattern and scope."""


@dataclass(frozen=True, eq=False)
class DeployedModel:
    """A model and its campaigns, which ran one deployed file. folder: what its latency is measured in."""

    folder: Path
    deployment_id: str
    campaigns: tuple[PairedSide, ...]

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of the passes that it was protected with; none of a plain model."""
        return self.campaigns[0].passes or ()


@dataclass(frozen=True, eq=False)
class CampaignPair:
    """A protected model's campaign with the plain one, as far as they have fault models in common."""

    model: DeployedModel
    sides: PairedSides
    rows: PairedRows
    fault_models: tuple[FaultModelKey, ...]


@dataclass(frozen=True, eq=False)
class TradeoffCampaigns:
    """What is weighed. plain_of: fault model -> the plain campaign that it is from, in the order of the campaigns."""

    plain: DeployedModel
    protected: tuple[DeployedModel, ...]
    plain_of: dict[FaultModelKey, PairedSide]
    pairs: tuple[CampaignPair, ...]
    notes: tuple[str, ...]

    @property
    def engine(self) -> tuple[str, str]:
        """Backend and precision of all campaigns."""
        spec = self.plain.campaigns[0].spec.engine
        return spec.backend, spec.precision


def read_campaigns(paths: Sequence[Path]) -> TradeoffCampaigns:
    """Read finished campaigns of one model, plain and protected, in any order.

    Raises UsageError where they are not that, where two tell of the same faults, where a model's folder is gone or holds
    another file than was run, and where nothing pairs; StaleArtefact for a campaign that is not finished or was changed.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a campaign is named twice; name each once")
    sides = [PairedSide.of(path) for path in paths]
    plain_sides = [side for side in sides if side.passes is None]
    protected_sides = [side for side in sides if side.passes is not None]
    _check_kinds(plain_sides, protected_sides, paths)
    _check_engines(sides)
    plain, *others = _models(plain_sides)
    if others:
        raise UsageError(
            f"{plain.campaigns[0].path} and {others[0].campaigns[0].path} are campaigns of two plain models (deployed as"
            f" {plain.deployment_id} and {others[0].deployment_id}); name campaigns of one plain model and of what"
            " was protected of it"
        )
    plain_of = _by_fault_model(plain)
    protected = tuple(_models(protected_sides))
    pairs = tuple(pair for model in protected for pair in _pairs(model, plain_of))
    check_folders([plain, *protected])
    return TradeoffCampaigns(plain, protected, plain_of, pairs, tuple(_notes(pairs, protected, plain_of)))


def fault_models(side: PairedSide) -> tuple[FaultModelKey, ...]:
    """Those of a campaign's rows at the sites of the model itself, in their order."""
    rows = side.judged_rows
    own = rows[~rows["kind"].str.startswith("protect.")]
    return tuple(own[list(MODEL)].drop_duplicates().itertuples(index=False, name=None))


def fault_model_name(key: FaultModelKey) -> str:
    """ "flip in activations"."""
    target, where, op = key
    noun = "activations" if where == "activation" else "weights"
    return f"{op} in {noun}" + ("" if target == "model" else f" of the {target} alone")


def check_folders(models: Sequence[DeployedModel]) -> None:
    """Raises UsageError for a folder that is gone, or whose deployed file is not the one that the campaign ran."""
    for model in models:
        campaign = model.campaigns[0]
        if not model.folder.is_dir():
            raise UsageError(
                f"the model of the campaign in {campaign.path} is no longer in {model.folder}; latency is measured there: put"
                " it back, or run the campaign on a model that is there"
            )
        engine = campaign.spec.engine
        present = plain_request(model.folder, precision=engine.precision).deployment_id
        if present != model.deployment_id:
            raise UsageError(
                f"{model.folder} deploys another file ({present}) than the campaign in {campaign.path} ran"
                f" ({model.deployment_id}): run the campaign again, so that latency and faults are of one file"
            )


def _check_kinds(plain: Sequence[PairedSide], protected: Sequence[PairedSide], paths: Sequence[Path]) -> None:
    named = ", ".join(map(str, paths))
    if not plain:
        raise UsageError(
            f"all of these are campaigns of protected models: {named}; name the plain model's campaign too"
        )
    if not protected:
        raise UsageError(
            f"none of these is a campaign of a protected model: {named}; protect it with `testbed protect`, and run the"
            " campaign on that"
        )
    for side in (*plain, *protected):
        if "model" not in side.spec.targets:
            raise UsageError(f"the campaign in {side.path} has no fault in the model as a whole; name one that has")
        if side.spec.model.onnx is not None:
            raise UsageError(
                f"the campaign in {side.path} is of an ONNX file; latency is measured in run folders: import the model with"
                " `testbed import` and run the campaign on that"
            )


def _check_engines(sides: Sequence[PairedSide]) -> None:
    engines = {(side.spec.engine.backend, side.spec.engine.precision): side for side in sides}
    if len(engines) > 1:
        (first, a), (second, b), *_ = engines.items()
        raise UsageError(
            f"{a.path} ran in {' '.join(first)} and {b.path} in {' '.join(second)}; name campaigns of one engine and precision,"
            " in which latency is measured too"
        )


def _models(sides: Sequence[PairedSide]) -> list[DeployedModel]:
    """Campaigns by the file that they ran, in their order."""
    by_file: dict[str, list[PairedSide]] = {}
    for side in sides:
        by_file.setdefault(_deployed(side), []).append(side)
    return [DeployedModel(_folder(campaigns[0]), file, tuple(campaigns)) for file, campaigns in by_file.items()]


def _deployed(side: PairedSide) -> str:
    side.folder.verify_file(Files("model").plain)
    return deployment_id((side.folder / Files("model").plain).read_bytes())


def _folder(side: PairedSide) -> Path:
    """The model's run folder; the campaign's own where it trained the model itself."""
    run = side.spec.model.run
    return side.path if run is None else Path(run)


def _by_fault_model(model: DeployedModel) -> dict[FaultModelKey, PairedSide]:
    """The campaign that tells of each fault model. Raises UsageError where two do."""
    campaigns: dict[FaultModelKey, PairedSide] = {}
    for side in model.campaigns:
        for key in fault_models(side):
            if key in campaigns:
                raise UsageError(
                    f"{campaigns[key].path} and {side.path} both tell of {fault_model_name(key)} in {model.folder}; name one of"
                    " them"
                )
            campaigns[key] = side
    return campaigns


def _pairs(model: DeployedModel, plain_of: dict[FaultModelKey, PairedSide]) -> Iterator[CampaignPair]:
    """Raises UsageError for a campaign of which no fault model is in a plain one."""
    common: dict[tuple[Path, Path], tuple[PairedSide, PairedSide, list[FaultModelKey]]] = {}
    for key, side in _by_fault_model(model).items():
        if key in plain_of:
            plain = plain_of[key]
            common.setdefault((plain.path, side.path), (plain, side, []))[2].append(key)
    for side in model.campaigns:
        if not any(path == side.path for _, path in common):
            known = ", ".join(map(fault_model_name, plain_of))
            own = ", ".join(map(fault_model_name, fault_models(side)))
            raise UsageError(
                f"the campaign in {side.path} has {own or 'no fault in the model itself'}, the plain ones {known}; run one"
                " spec on the plain and on the protected model"
            )
    for plain, side, keys in common.values():
        sides = PairedSides.between(plain, side)
        yield CampaignPair(model, sides, pair_rows(sides), tuple(keys))


def _notes(
    pairs: Sequence[CampaignPair], models: Sequence[DeployedModel], plain_of: dict[FaultModelKey, PairedSide]
) -> Iterator[str]:
    for model in models:
        for key, side in _by_fault_model(model).items():
            if key not in plain_of:
                yield f"{fault_model_name(key)} in {side.path} is left out: no campaign of the plain model has it"
    for pair in pairs:
        for note in pair.sides.notes:
            yield f"{pair.sides.protected.path}: {note}"
        lone = sum(unmatched.rows for unmatched in pair.rows.pairing.unmatched)
        if lone:
            yield (
                f"{pair.sides.protected.path}: {pair.rows.pairing.rows:,} rows pair with {pair.sides.plain.path}; {lone:,} of"
                " either have no partner and are left out"
            )
