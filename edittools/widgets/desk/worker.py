"""The threads of the desk: one for what takes long, and one for what a person waits for, which goes first."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from threading import Lock
from typing import Any

from tqdm import tqdm

from edittools._progress import Progress


class Worker:
    """Runs jobs in two threads, those of each thread one after the other."""

    def __init__(self) -> None:
        self._threads = {
            is_urgent: ThreadPoolExecutor(1, f"edittools desk, {'urgent' if is_urgent else 'long'}")
            for is_urgent in (False, True)
        }
        self._lock = Lock()
        self._jobs: set[Future] = set()
        self._urgent: Future | None = None

    def submit(self, job: Callable[[], None], is_urgent: bool = False) -> None:
        """Run a job, before what takes long goes on if it is urgent.

        Args:
            job: the job; what it raises is raised by `wait`.
            is_urgent: whether a person waits for it.
        """
        with self._lock:
            self._jobs = {other for other in self._jobs if not other.done() or other.exception() is not None}
            future = self._threads[is_urgent].submit(job)
            self._jobs.add(future)
            if is_urgent:
                self._urgent = future

    def wait_for_urgent(self) -> None:
        """Wait until the urgent jobs are done; what takes long calls it, so that it does not slow them down."""
        if self._urgent is not None:
            wait_for([self._urgent])

    def wait(self, seconds: float | None = None) -> None:
        """Wait until all jobs are done, also those that jobs have submitted.

        Args:
            seconds: the longest time to wait for those that there are; None for no limit.

        Raises:
            TimeoutError: if they take longer.
        """
        while True:
            with self._lock:
                jobs = set(self._jobs)
            if not jobs:
                return
            _, running = wait_for(jobs, seconds)
            if running:
                raise TimeoutError(f"the desk is still at work after {seconds} s")
            with self._lock:
                self._jobs -= jobs
            for job in jobs:
                job.result()


def bars(show: Callable[[str, int, int | None, str], None], is_wanted: Callable[[], bool]) -> Progress:
    """Make a class of progress bars that are shown on the desk, and print nothing.

    Args:
        show: is called with what is counted, how much is done, the total, and the time that is left, as tqdm writes it.
        is_wanted: tells whether what is counted is still wanted; if it is not, the bar raises `KeyboardInterrupt`.
    """

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if not is_wanted():
                raise KeyboardInterrupt
            return shown

        def display(self, *arguments: Any, **options: Any) -> None:
            show((self.desc or "").removesuffix(": "), self.n, self.total, time_left(self))

        def __iter__(self) -> Any:
            for item in super().__iter__():
                if not is_wanted():
                    raise KeyboardInterrupt
                yield item

    return Bar


def time_left(bar: tqdm) -> str:
    """Return the time that a bar has left, as tqdm writes it, such as "01:20"; empty if it is not known."""
    rate = bar.format_dict["rate"]
    if not rate and bar.n:
        rate = bar.n / bar.format_dict["elapsed"]
    return tqdm.format_interval((bar.total - bar.n) / rate) if rate and bar.total else ""
