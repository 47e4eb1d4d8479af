"""Names of the files in a campaign's run folder."""

from __future__ import annotations

from dataclasses import dataclass

TIERS = "tiers.json"
PLAN = "faults.parquet"
RESULTS = "results.parquet"
STORE = "store"
STATUS = "status.json"
PICTURES = "pictures.parquet"
PROXY = "proxy.json"


@dataclass(frozen=True)
class Files:
    """Files of one target."""

    target: str

    @property
    def plain(self) -> str:
        return f"{self.target}.onnx"

    @property
    def twin(self) -> str:
        return f"{self.target}.twin.onnx"

    @property
    def sites(self) -> str:
        return f"{self.target}.sites.json"

    @property
    def inputs(self) -> str:
        """What it is fed for the named images, (n, ...) float32."""
        return f"inputs/{self.target}.npy"

    @property
    def values(self) -> str:
        """Classes of its golden values for the named images, (n, bytes) uint8, where strata are told apart by them."""
        return f"values/{self.target}.npy"

    @property
    def value_counts(self) -> str:
        """How many values are in each class, (n, sites, classes) int32."""
        return f"values/{self.target}.counts.npy"

    @property
    def golden(self) -> str:
        """Its reference golden for the named images, (n, ...) float32, where the golden is not of it for all images."""
        return f"golden/{self.target}.npy"


def plan_file(number: int) -> str:
    """The plan of one round of an adaptive campaign."""
    return f"plan/round-{number:03d}.parquet"


def words_file(plan: str) -> str:
    """Golden words of the elements that a plan strikes, fault after fault: (entries,) uint32."""
    return plan.removesuffix(".parquet") + ".words.npy"


def points_file(plan: str) -> str:
    """The words of a plan's faults that strike more than one."""
    return plan.removesuffix(".parquet") + ".points.parquet"
