"""Workers on a Dask cluster. Units are pinned to workers by this process, which is also the one that writes rows.

Pinning keeps the choice of worker here: one whose golden differs, or that does not see the run folder, is refused by
name before it gets a unit; what a vanished worker held is given to others. Nor are rows believed unseen: all are held
against the plan, and some units are run again elsewhere. A worker with other rows is refused by name, and all that it
gave is thrown away and done again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable
from typing import Self

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Drop, Keep, Limits, Opener, Report, Tick
from testbed.campaign.work.dask.checks import Checks, Recheck
from testbed.campaign.work.dask.members import Members
from testbed.campaign.work.dask.pool_run import PoolRun
from testbed.campaign.work.dask.worker import Job
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.provenance import installed_version
from testbed.core.folder.runfolder import RunFolder

log = logging.getLogger(__name__)


class ClusterPool:
    """All workers that are known to the scheduler at ``address``, those that join later included."""

    def __init__(
        self,
        opener: Opener,
        address: str,
        folder: RunFolder,
        limits: Limits | None = None,
        *,
        recheck: Recheck | None = None,
        insecure: bool = False,
    ) -> None:
        """Connects to the scheduler. insecure: also where anybody can join. Raises UsageError for an address that is
        not safe, TestbedError where no scheduler answers."""
        self._opener, self._folder = opener, folder
        self._limits = limits or Limits()
        self._token = uuid.uuid4().hex
        self._members = Members(address, insecure)
        self._checks = Checks(recheck or Recheck(), opener, self._limits)

    @property
    def workers(self) -> int:
        """How many workers the scheduler has now, whether they are fit or not. Raises TestbedError where it is gone."""
        return len(self._members.present())

    def run(
        self,
        units: Iterable[Unit],
        keep: Keep,
        tick: Tick = lambda workers: None,
        drop: Drop = lambda units: None,
    ) -> Report:
        """See `contract.WorkerPool`. Raises TestbedError when no fit worker is left, or the scheduler is gone."""
        path = self._folder.path.resolve()
        job = Job(
            token=self._token,
            folder=str(path),
            manifest=sha256_file(path / MANIFEST),
            version=installed_version("testbed"),
            opener=self._opener,
            limits=self._limits,
        )
        self._members.begin(job)
        pool_run, start = PoolRun(self._members, self._checks, self._limits, units, keep, drop), time.perf_counter()
        try:
            pool_run.run(tick)
        except BaseException:
            self._members.stop()
            pool_run.keep_finished()
            raise
        finally:
            pool_run.report.wall_seconds = time.perf_counter() - start
        log.info("cluster: %s rows were run again elsewhere so far", f"{self._checks.rows:,}")
        return pool_run.report

    def begin(self) -> None:
        """Nothing: a cluster's workers are asked what they are when there is work."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._checks.close()
        self._members.close()
