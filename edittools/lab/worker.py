"""One thread that does what was asked for last: a request that has not begun is replaced, a stale result is dropped."""

import threading
from collections.abc import Callable
from typing import Any


class Worker:
    """Calls `do(request, stale)` in a thread, one request at a time, always the newest; the thread ends when idle.

    `stale()` says whether a newer request has come: what takes long asks now and then, and stops. Nothing that `do`
    raises is lost: `failed(error)` gets it, unless the request is stale by then.
    """

    def __init__(self, do: Callable[[Any, Callable[[], bool]], None], failed: Callable[[BaseException], None]) -> None:
        self._do, self._failed = do, failed
        self._change = threading.Condition()
        self._next: list[Any] = []
        self._newest, self._thread = 0, None

    @property
    def busy(self) -> bool:
        """Whether a request is being done or waits."""
        with self._change:
            return self._thread is not None

    def ask(self, request: Any) -> None:
        """Do this next, in place of what waits."""
        with self._change:
            self._next, self._newest = [request], self._newest + 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="edittools desk", daemon=True)
                self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing is left to do, at most so many seconds; False where something is."""
        with self._change:
            return self._change.wait_for(lambda: self._thread is None, seconds)

    def _work(self) -> None:
        while True:
            with self._change:
                if not self._next:
                    self._thread = None
                    self._change.notify_all()
                    return
                request, number = self._next.pop(), self._newest
            self._once(request, lambda number=number: self._newest != number)

    def _once(self, request: Any, stale: Callable[[], bool]) -> None:
        try:
            self._do(request, stale)
        except BaseException as error:  # a thread that dies would leave the desk waiting
            if not stale():
                self._failed(error)
