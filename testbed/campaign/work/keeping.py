"""Keeping rows in a thread beside whoever makes them: an engine need not wait for the disk, or until they are counted."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_BESIDE = 2  # kept or waiting for it, while one more is made: memory stays flat


class KeepingThread(Generic[T]):
    """Calls ``keep`` with each item in a thread, in their order. The end of the ``with`` block waits for all of them.

    What ``keep`` raises is raised by the next `put`, or by the end of the block where nothing else is; no item is kept after.
    """

    def __init__(self, keep: Callable[[T], None]) -> None:
        self._keep = keep
        self._items: queue.SimpleQueue[list[T]] = queue.SimpleQueue()
        self._room = threading.Semaphore(_BESIDE)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._keep_all, daemon=True)

    def put(self, item: T) -> None:
        """Has the item kept, and waits until there is room for another. It is kept also where Ctrl-C ends the waiting."""
        self._items.put([item])
        self._room.acquire()
        self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _keep_all(self) -> None:
        while items := self._items.get():
            try:
                if self._failed is None:
                    self._keep(*items)
            except BaseException as error:
                self._failed = error
            del items
            self._room.release()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._items.put([])
        try:
            self._thread.join()
        finally:  # also after another Ctrl-C: nobody closes the log while rows are written
            self._thread.join()
        if error is None:
            self._check()
