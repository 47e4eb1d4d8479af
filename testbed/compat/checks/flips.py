"""One bit flip per kind of site: by the twin, by hand in the plain graph, and by PyTorch in the library's own model.

The first two must agree in every bit, graph optimisations off. The campaign's own injection, in the engine as it is
deployed, must agree with the library's model to within what two ways of computing one model differ by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.compat.checks.agreement import Flip, inject_activations
from testbed.compat.checks.eager import EagerModel
from testbed.compat.checks.hand_edit import with_element
from testbed.compat.checks.subject import CheckedExport, CheckFailed
from testbed.compat.checks.unoptimised import Unoptimised
from testbed.core.site import Site
from testbed.instrument.ports.feed import NO_SITE, PortFeed, to_words
from testbed.semantics import corrupt

_BIT = 25  # of the exponent: a sixteenth of most values, or sixteen times as much
_TRIES = 6  # elements of a tensor, until one is seen in the logits


def check_flips(subject: CheckedExport) -> tuple[str, ...]:
    """What could not be compared with the library's own model. Raises CheckFailed for a flip that is not what it should be."""
    sites = list(_of_each_kind(subject.activations))
    twice = np.repeat(subject.inputs[:1], 2, axis=0)
    outputs = Unoptimised(subject.plain, [site.tensor for site in sites]).run({subject.engine.input_name: twice})
    golden = {site: outputs[site.tensor].reshape(2, -1)[0] for site in sites}
    flips = {site: _flips(site, values) for site, values in golden.items()}
    _check_bits(subject, {several[0]: golden[site] for site, several in flips.items()}, outputs)
    alone = _compare(subject, flips, golden)
    if len(alone) == len(sites):
        raise CheckFailed("no site's tensor is one that the library's own model computes")
    return tuple(f"{site.name}: no operation of the library's own model gives this tensor" for site in alone)


def _of_each_kind(sites: Sequence[Site]) -> Iterator[Site]:
    """The first site of each kind, and the last one."""
    first, last = ({site.kind: site for site in several} for several in (reversed(sites), sites))
    for kind, site in first.items():
        yield from dict.fromkeys((site, last[kind]))


def _flips(site: Site, values: NDArray) -> list[Flip]:
    """Flips of some elements that are large for their tensor. values: (n,) one image's."""
    rng = np.random.default_rng([site.elements, len(site.name)])
    size = np.abs(values.astype(np.float32))
    large = np.flatnonzero((size >= np.median(size)) & (size > 0))
    indices = rng.permutation(large if len(large) else len(size))[:_TRIES]
    return [Flip(site, int(index), min(_BIT, site.format.bits - 2)) for index in indices]


def _check_bits(subject: CheckedExport, flips: Mapping[Flip, NDArray], outputs: Mapping[str, NDArray]) -> None:
    """Twin and edited graph, on a batch of a faulty row and one without a fault.

    flips: with the values (n,) of their sites; outputs: of the plain file, twice for the same image.
    """
    engine, twin = subject.engine, Unoptimised(subject.twin)
    images, logits = {engine.input_name: np.repeat(subject.inputs[:1], 2, axis=0)}, engine.output_name
    for flip, values in flips.items():
        site, value = flip.site, values[flip.index : flip.index + 1]
        ports = _ports(flip, subject.table.ports[site.name], value)
        by_twin = twin.run(images | ports.as_inputs(subject.table))[logits]
        faulty = corrupt(value, *(np.array([mask], np.uint32) for mask in flip.masks))
        by_hand = Unoptimised(with_element(subject.plain, site.tensor, flip.index, faulty)).run(images)[logits]
        if by_twin.tobytes() != by_hand.tobytes():
            raise CheckFailed(f"{site.name}: the twin gives other bits than the plain graph edited by hand")
        if by_twin[1].tobytes() != outputs[logits][1].tobytes():
            raise CheckFailed(f"{site.name}: a fault in one image changes the logits of another")


def _ports(flip: Flip, port: int, value: NDArray) -> PortFeed:
    """A row with the flip, and one without a fault. value: (1,) the element's."""
    kept, put, turned = (np.array(pair, np.uint32) for pair in zip(flip.masks, (0xFFFFFFFF, 0, 0), strict=True))
    word = np.concatenate([to_words(value), np.zeros(1, np.uint32)])
    return PortFeed(np.array([port, NO_SITE]), np.array([flip.index, 0]), kept, put, turned, word)


def _compare(subject: CheckedExport, flips: Mapping[Site, list[Flip]], golden: Mapping[Site, NDArray]) -> list[Site]:
    """Per site, flips until one is seen in the logits; the sites that the library's model has no such tensor of.

    golden: (n,) one image's. Raises CheckFailed where it has, and the logits differ.
    """
    eager = EagerModel(subject.model, subject.inputs[:1])
    eager.find({site.name: golden[site] for site in flips if site.format_name == "fp32"})
    known = [site for site in flips if eager.operations(site.name)]
    injected = iter(inject_activations(subject, [flip for site in known for flip in flips[site]]))
    alone = [site for site in flips if site not in known]
    for site in known:
        compared = seen = False
        for flip in flips[site]:
            injection = next(injected)
            if not seen:
                faulty = eager.faulty_logits(site.name, golden[site][flip.index], flip.masks)
                held = injection.is_compared(faulty)
                compared, seen = compared or held, held and injection.is_loud
        if not compared:
            alone.append(site)
    return alone
