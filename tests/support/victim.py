"""A warm process that runs campaigns in forked children, which die at the moment they are told: see test_resume.

One JSON request per line: ``argv`` of the command line, or ``spec``, ``run`` and ``workers`` for the library; and when
to die:

after   {"operations": n}  SIGKILL itself before its n-th change to the run folder (a file opened to write, renamed, ...)
        {"manifests": n}   SIGKILL itself before it writes its n-th manifest
        {"writes": n}      SIGKILL itself in the middle of the n-th frame of the log
        {"interrupt": n}   Ctrl-C after the n-th frame of the log (in both cases a frame has one unit)
        {}                 never

Answers two lines: the child's process id, then its exit status (negative: the signal that ended it).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.results import compaction, store
from testbed.campaign.spec.campaign import load_spec
from testbed.campaign.work import pool as crew
from testbed.campaign.work import spans
from testbed.campaign.work.contract import Limits
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.main import main
from tests.support.exports import remembered_exports

torch.set_num_threads(1)
crew.Limits = functools.partial(Limits, backoff_s=0.05)  # type: ignore[misc,assignment]
compaction.GROUP_ROWS = 128  # their tables are written ahead, as those of longer campaigns are

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}


def die_before(number: int, change: Callable[[str, tuple[Any, ...]], bool]) -> None:
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if change(event, arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def is_change(folder: str) -> Callable[[str, tuple[Any, ...]], bool]:
    def change(event: str, arguments: tuple[Any, ...]) -> bool:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        return (bool(writes) or event in CHANGES) and str(arguments[0]).startswith(folder)

    return change


def is_manifest(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "os.rename" and str(arguments[1]).endswith("manifest.json")


def die_in_frame(number: int) -> None:
    class Dying(FileIO):
        left = number

        def write(self, content: Any) -> int:
            Dying.left -= 1
            if Dying.left == 0:
                super().write(content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write(content)

    store.FileIO = Dying  # type: ignore[misc]


def interrupt_after_frame(number: int) -> None:
    append, left = store.ResultStore.append, number

    def interrupted(self: Any, *arguments: Any) -> None:
        nonlocal left
        append(self, *arguments)
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)  # to this thread: os.kill may reach another one, a frame later

    store.ResultStore.append = interrupted  # type: ignore[method-assign,assignment]


def child(request: dict[str, Any]) -> None:
    after = request["after"]
    if after.keys() & {"writes", "interrupt"}:
        spans.SPAN_S = 0.0
    if "operations" in after:
        die_before(after["operations"], is_change(request["run"]))
    if "manifests" in after:
        die_before(after["manifests"], is_manifest)
    if "writes" in after:
        die_in_frame(after["writes"])
    if "interrupt" in after:
        interrupt_after_frame(after["interrupt"])
    if "argv" in request:
        sys.argv = ["testbed", *request["argv"]]
        main()
    run_campaign(load_spec(Path(request["spec"])), Path(request["run"]), worker_setup=WorkerSetup(request["workers"]))


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                child(request)
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    with remembered_exports(Path(os.environ["XDG_CACHE_HOME"]).with_name("exports")):
        serve()
