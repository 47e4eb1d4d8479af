"""Who runs a campaign's faults: this process, processes of this machine, or a cluster's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from testbed.campaign.work import Crew, Limits, Opener
from testbed.core.runfolder import RunFolder


@dataclass(frozen=True)
class Workforce:
    """workers: isolated processes on this machine; 0: this process. scheduler: address of a Dask cluster, used instead."""

    workers: int = 1
    scheduler: str | None = None

    def crew(self, opener: Opener, folder: RunFolder, limits: Limits | None = None) -> AbstractContextManager[Crew]:
        """Raises UsageError where the cluster's libraries are missing, TestbedError where nobody answers there."""
        if self.scheduler is not None:
            from testbed.campaign.cluster import ClusterCrew

            return ClusterCrew(opener, self.scheduler, folder, limits)
        from testbed.campaign.crew import LocalCrew

        return LocalCrew(opener, self.workers, limits)
