"""The sliding window: nothing is forgotten early, nothing is remembered for more than a slot too long."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from holdfast.window import SLOTS, SlotWindow


@given(
    window_s=st.sampled_from([1.0, 7.0, 10.0]),
    pauses=st.lists(st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.99, 1.0, 1.5]), min_size=1, max_size=60),
)
def test_a_window_covers_its_time_and_at_most_a_slot_more(window_s: float, pauses: list[float]) -> None:
    """Against a list of all moments: everything younger than the window counts, nothing older than a slot more does."""
    window = SlotWindow(window_s)
    slot_s = window_s / SLOTS
    now, moments = 500.0, []
    for pause in pauses:
        now += pause * window_s / 4
        window.advance(now)
        window.tick()
        window.add(3)
        moments.append(now)
        least = sum(moment > now - window_s + 1e-9 for moment in moments)
        most = sum(moment > now - window_s - slot_s - 1e-9 for moment in moments)
        assert least <= window.ticks() <= most
        assert window.amount() == 3 * window.ticks()


def test_ticks_are_exact_without_a_lock() -> None:
    """64 threads tick while others look: none is lost, none counted twice, and looking changes nothing."""
    window = SlotWindow(10.0)
    lock, start = threading.Lock(), threading.Barrier(64)

    def work() -> None:
        start.wait()
        for _ in range(500):
            window.tick()
            with lock:
                window.ticks()

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert window.ticks() == window.ticks() == 64 * 500
    window.clear()
    assert (window.ticks(), window.amount()) == (0, 0)
