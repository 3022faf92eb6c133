import threading

import pytest

from stal_data.fair_lock import FairLock


def test_threads_get_it_in_the_order_in_which_they_asked() -> None:
    lock, order = FairLock(), list[int]()

    def take(number: int) -> None:
        with lock:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,), daemon=True) for number in range(20)]
    with lock:
        for number, thread in enumerate(threads):
            thread.start()
            while lock.waiting <= number:
                thread.join(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == list(range(20))
    assert lock.waiting == 0


def test_an_error_within_it_frees_it() -> None:
    lock = FairLock()
    with pytest.raises(KeyError), lock:
        raise KeyError
    with lock:
        assert lock.waiting == 0
