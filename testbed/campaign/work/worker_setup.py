"""Who runs a campaign's faults: this process, processes of this machine, or a cluster's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.campaign.work.contract import Limits, Opener, WorkerPool
from testbed.campaign.work.dask.access import check_address
from testbed.core.folder.runfolder import RunFolder

if TYPE_CHECKING:
    from testbed.campaign.work.row_check import Expect

RECHECK = 0.02


@dataclass(frozen=True)
class WorkerSetup:
    """Who runs a campaign's faults. workers: isolated processes on this machine; 0: this process. scheduler: address of
    a Dask cluster, used instead; insecure: also one that anybody can join; recheck: share of its workers' units that
    are run again elsewhere, besides the first of each; 0 for none."""

    workers: int = 1
    scheduler: str | None = None
    insecure: bool = False
    recheck: float = RECHECK

    def check(self) -> None:
        """Raises UsageError for a cluster's address that is not safe: nothing need be prepared to know that."""
        if self.scheduler is not None:
            check_address(self.scheduler, self.insecure)

    def pool(
        self,
        opener: Opener,
        folder: RunFolder,
        limits: Limits | None = None,
        expect: Expect = lambda unit, rows: None,
    ) -> AbstractContextManager[WorkerPool]:
        """Opens the workers. expect: why rows cannot be a unit's. Raises UsageError where the cluster's libraries are
        missing or its address is not safe, TestbedError where nobody answers there."""
        if self.scheduler is not None:
            from testbed.campaign.work.dask.checks import Recheck
            from testbed.campaign.work.dask.pool import ClusterPool

            checked = Recheck(self.recheck, expect)
            return ClusterPool(opener, self.scheduler, folder, limits, recheck=checked, insecure=self.insecure)
        from testbed.campaign.work.pool import LocalPool

        return LocalPool(opener, self.workers, limits)
