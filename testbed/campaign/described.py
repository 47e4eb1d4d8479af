"""What the manifest and the summary say of a campaign's model and data."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue

from testbed.core.folder.forms import Form

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Table = dict[str, JsonValue]


class AbsentSite(Form):
    """A site that other models have and this file has not."""

    site: str
    why: str


class AccuracyFacts(Form):
    model_config = ConfigDict(extra="forbid")

    value: _Share
    low: _Share
    high: _Share
    guessed: _Share
    images: _Count
    classes: _Count


class DescribedModel(Form):
    """What the summary says of the model."""

    preset: str
    parameters: _Count
    sha256: str
    reference: str
    changes: list[str]
    not_there: list[AbsentSite] = Field(default_factory=list)


class _Images(Form):
    train: _Count = 0
    validation: _Count = 0
    test: _Count


class DescribedData(Form):
    """What the summary says of the data set."""

    name: str
    classes: list[str]
    channels: _Count
    image: _Count
    images: _Images
    preprocess: _Table
    seed: int = 0
    preprocess_told: str
    source: _Table | None


class PictureFacts(Form):
    model: DescribedModel
    data: DescribedData
    accuracy: AccuracyFacts
