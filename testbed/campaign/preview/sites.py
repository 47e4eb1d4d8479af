"""The sites that a campaign's model will have, before it exists."""

from __future__ import annotations

from testbed.campaign.prepare.subject import PreviewSubject
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.site import Site, SiteTable


def sketched_sites(spec: CampaignSpec, subject: PreviewSubject, target: str) -> SiteTable:
    """Names, shapes and formats, as the exported model's site table will have them, without an export where that can be.

    A model of the testbed is run on tensors without content. An ONNX file, or a protected one, names its own sites; what
    quantisation adds is known only from a quantised file, which is made of an untrained model.
    """
    if spec.model.onnx is not None or spec.engine.precision == "int8":
        return subject.site_table(subject.sketch(target).plain, target)
    from testbed.campaign.prepare.protected_model import ProtectedSubject
    from testbed.campaign.prepare.torch_model import TorchSubject

    if isinstance(subject, ProtectedSubject) or not isinstance(subject, TorchSubject):
        return subject.site_table(subject.sketch(target).plain, target)
    shapes = subject.shapes(target)
    sites = tuple(Site(name, where, shape, spec.engine.precision) for (name, where), shape in shapes.items())
    return SiteTable(target, "", spec.engine.ports, sites)
