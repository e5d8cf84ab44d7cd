"""Do the next pieces of work in the background while the current one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(tasks: Iterable[Callable[[], T]], *, workers: int, ahead: int) -> Iterator[T]:
    """Results of `tasks` in their order, computed by `workers` threads, up to `ahead` results before they are needed.

    The order and the results do not depend on the number of threads. An error of a task is raised where its result
    is due.

    Parameters
    ----------
    tasks
        Functions without arguments; taken one at a time, so that a generator is never read far ahead.
    workers
        Threads; 0 computes each result when it is needed.
    ahead
        Results per thread that may wait.

    Examples
    --------
    >>> list(prefetched([lambda: 1, lambda: 2], workers=1, ahead=1))
    [1, 2]
    """
    if workers == 0:
        yield from (task() for task in tasks)
        return
    tasks, waiting = iter(tasks), deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > workers * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
