"""Events: who hears what, and what a bad listener can break (nothing)."""

from __future__ import annotations

import logging
import threading

import pytest

from holdfast.events import CallRejected
from holdfast.stream import EVENTS, Event, EventStream, subscribe

EVENT = CallRejected("x", "breaker", 1.0)


def test_hooks_hear_events_in_order_until_they_close() -> None:
    """Subscribed hooks are called one after the other; closing twice is harmless."""
    stream = EventStream()
    heard: list[tuple[str, Event]] = []
    first = stream.subscribe(lambda event: heard.append(("first", event)))
    with stream.subscribe(lambda event: heard.append(("second", event))):
        stream.emit(EVENT)
    stream.emit(EVENT)
    first.close()
    first.close()
    stream.emit(EVENT)
    assert heard == [("first", EVENT), ("second", EVENT), ("first", EVENT)]
    assert not stream.subscriptions


def test_one_hook_subscribed_twice_is_two_subscriptions() -> None:
    """Closing one leaves the other."""
    stream = EventStream()
    heard: list[Event] = []
    one, _two = stream.subscribe(heard.append), stream.subscribe(heard.append)
    one.close()
    stream.emit(EVENT)
    assert heard == [EVENT]


def test_a_hook_that_raises_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The other hooks hear the event, and the log names its kind and not its content."""
    stream = EventStream()
    heard: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError

    stream.subscribe(fail)
    stream.subscribe(heard.append)
    with caplog.at_level(logging.ERROR, "holdfast"):
        stream.emit(EVENT)
    assert heard == [EVENT]
    (record,) = caplog.records
    assert record.getMessage().startswith("an event hook failed on CallRejected\n")


def test_a_hook_may_subscribe_and_close_while_it_is_called() -> None:
    """Changes take effect from the next event on."""
    stream = EventStream()
    heard: list[Event] = []

    def once(event: Event) -> None:
        subscription.close()
        stream.subscribe(heard.append)

    subscription = stream.subscribe(once)
    stream.emit(EVENT)
    assert heard == []
    stream.emit(EVENT)
    assert heard == [EVENT]


def test_64_threads_subscribe_and_close_without_losing_one() -> None:
    """After everybody has come and gone only those who stayed are left."""
    stream = EventStream()
    start = threading.Barrier(64)

    def work() -> None:
        start.wait()
        for _ in range(20):
            stream.subscribe(print).close()
        stream.subscribe(print)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.subscriptions) == 64


def test_the_process_has_one_stream() -> None:
    """`subscribe` listens to the stream that everything uses by default."""
    heard: list[Event] = []
    with subscribe(heard.append):
        EVENTS.emit(EVENT)
    assert heard == [EVENT]
