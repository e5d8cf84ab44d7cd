"""Order, errors and overlap of work done in the background."""

import threading
import time

import pytest

from hpvade.models.cycleae._prefetch import prefetched


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whatever_the_number_of_threads(workers):
    def task(i):
        return lambda: (time.sleep(0.002 * (5 - i % 5)), i)[1]

    assert list(prefetched((task(i) for i in range(20)), workers=workers, ahead=2)) == list(range(20))


def test_the_next_result_is_ready_before_the_current_is_done_with():
    done = [threading.Event() for _ in range(4)]

    def task(i):
        return lambda: (done[i].set(), i)[1]

    for i in prefetched((task(i) for i in range(4)), workers=1, ahead=1):
        if i < 3:
            assert done[i + 1].wait(5), "computed while this one is used"
        assert not any(event.is_set() for event in done[i + 3 :]), "but not more than may wait"


def test_an_error_comes_where_its_result_is_due():
    def fail():
        raise ValueError("chunk 2")

    results = prefetched([lambda: 0, lambda: 1, fail], workers=2, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="chunk 2"):
        next(results)
