"""The campaign's answer in a few sentences of plain language, each made from the summary's numbers."""

from __future__ import annotations

from markupsafe import Markup

from testbed.core.site import Where
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import count, model_name, one_in, percent, percent_bound, rate
from testbed.report.read.evidence import Evidence, bits_of

_EVENTS = {
    "flip": "random single bit flips",
    "stuck0": "random stuck-at-0 faults",
    "stuck1": "random stuck-at-1 faults",
    "random": "random replacements",
}
_PLACES: dict[Where, str] = {"activation": "an activation value", "weight": "a weight"}


def _events(op: str) -> str:
    return _EVENTS.get(op) or f"random faults ({model_name(op)})"


def verdict(evidence: Evidence) -> list[Markup]:
    """Paragraphs: one on activations, one on weights. What a campaign has not run is passed over."""
    m = evidence.marginals
    paragraphs = []
    for where in _PLACES:
        op = m.main_op("model", where)
        overall = m.estimate("model", where, op, "sdc1") if op else None
        if op is None or overall is None:
            continue
        sentences = [_headline(overall, _events(op), where)]
        sentences += _bits(evidence, where, op, overall) if op in _EVENTS and op != "random" else []
        if where == "activation":
            sentences += [*_worst_place(evidence, op), *_confidence(evidence, op)]
        sentences += _nonfinite(m.estimate("model", where, op, "nonfinite"))
        paragraphs.append(Markup(" ").join(sentences))
    return paragraphs or [Markup(" ").join(_attention(evidence))]


def _headline(overall: RateEstimate, events: str, where: Where) -> Markup:
    noun = _PLACES[where]
    if overall.rate == 0:
        return Markup(
            "<strong>None of {} sampled {} of {} changed a prediction</strong> ({} predictions looked at):"
            " the rate is {}, so at most {}."
        ).format(count(overall.faults), events, noun, count(overall.rows), rate(overall), percent_bound(overall.high))
    if where == "weight":
        text = "Under {1} of {2}, about <strong>{0}</strong> predictions changes: <strong>{3}</strong>."
    else:
        text = "About <strong>{0}</strong> {1} of {2} changes the model's prediction: <strong>{3}</strong>."
    return Markup(text).format(one_in(overall.rate), events, noun, rate(overall))


def _bits(evidence: Evidence, where: Where, op: str, overall: RateEstimate) -> list[Markup]:
    """The bit that does most of the harm, and the low bits that do none."""
    formats = evidence.marginals.bit_formats("model", where, op)
    if len(formats) != 1:
        return []  # nothing, or bits that stand for more or fewer faults than one another
    by = bits_of(formats[0].name) if formats[0] else "bit"
    by_bit = {
        bit: estimate
        for bit in evidence.marginals.values("model", where, op, by)
        if isinstance(bit, int) and (estimate := evidence.marginals.estimate("model", where, op, "sdc1", by, bit))
    }
    if overall.rate == 0 or len(by_bit) < 2:
        return []
    worst = max(by_bit, key=lambda bit: by_bit[bit].rate)
    share = by_bit[worst].rate / sum(estimate.rate for estimate in by_bit.values())
    sentences = [
        Markup(
            "{} alone is responsible for about <strong>{}</strong> of that: struck there, {} of predictions change."
        ).format(_bit_name(evidence, worst), percent(share), rate(by_bit[worst]))
    ]
    harmless = _harmless(by_bit)
    if len(harmless) > 1:
        rows = sum(by_bit[bit].rows for bit in harmless)
        unbroken = harmless[-1] - harmless[0] + 1 == len(harmless)
        which = f"{'Bits' if unbroken else 'The sampled bits from'} {harmless[0]} to {harmless[-1]}"
        sentences.append(Markup("{} changed none of {} predictions.").format(which, count(rows)))
    return sentences


def _harmless(by_bit: dict[int, RateEstimate]) -> list[int]:
    """The run of bits, from the lowest up, that never changed a prediction."""
    low: list[int] = []
    for bit in sorted(by_bit):
        if by_bit[bit].rate > 0:
            break
        low.append(bit)
    return low


def _bit_name(evidence: Evidence, bit: int) -> str:
    if bit >= evidence.format.bits:
        return f"Bit {bit}"
    role = evidence.format.role(bit)
    top = "top " if evidence.format.bit_class(bit) == "exponent_top" else ""
    return f"The {top}{role} bit ({bit})"


def _worst_place(evidence: Evidence, op: str) -> list[Markup]:
    m = evidence.marginals
    sites = m.values("model", "activation", op, "site")
    by_site = {s: e for s in sites if (e := m.estimate("model", "activation", op, "sdc1", "site", s))}
    if len(by_site) < 2 or not any(e.rate for e in by_site.values()):
        return []
    worst = max(by_site, key=lambda site: by_site[site].rate)
    text = "The highest estimate of any tensor is that of <code>{}</code>: {}."
    return [Markup(text).format(str(worst), rate(by_site[worst]))]


def _confidence(evidence: Evidence, op: str) -> list[Markup]:
    m = evidence.marginals
    by_tier = [
        (tier, estimate)
        for tier in evidence.summary.tiers
        if (estimate := m.estimate("model", "activation", op, "sdc1", "tier", tier.tier))
    ]
    if len(by_tier) < 2 or not any(estimate.rate for _, estimate in by_tier):
        return []
    (_, unsure), (_, sure) = by_tier[0], by_tier[-1]
    apart = unsure.low > sure.high or sure.low > unsure.high
    text = "From the least to the most confident images the rate goes from {} to {}; these intervals {}."
    return [Markup(text).format(rate(unsure), rate(sure), "do not overlap" if apart else "overlap")]


def _nonfinite(estimate: RateEstimate | None) -> list[Markup]:
    if estimate is None:
        return []
    return [Markup("NaN or infinity reaches the output in {} of cases.").format(rate(estimate))]


def _attention(evidence: Evidence) -> list[Markup]:
    """The verdict for a campaign without the full model."""
    m = evidence.marginals
    sentences = []
    for where in _PLACES:
        op = m.main_op("attention", where)
        estimate = m.estimate("attention", where, op, "outside") if op else None
        if op and estimate:
            text = "<strong>{}</strong> of {} of {} push the attention module's output outside the tolerance."
            sentences.append(Markup(text).format(rate(estimate), _events(op), _PLACES[where]))
    return sentences
