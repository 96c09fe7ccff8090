"""News reaches whoever should hear it."""

from __future__ import annotations

import pickle

from engine.events import Event, ImagesDone, Notice, Relay, Watcher


class Diary(Watcher):
    def __init__(self, name: str, told: list[tuple[str, Event]]) -> None:
        self._name, self._told = name, told

    def hear(self, event: Event) -> None:
        self._told.append((self._name, event))


def test_a_relay_tells_all_the_same_in_order() -> None:
    told: list[tuple[str, Event]] = []
    news = [Notice("읽어 보세요"), ImagesDone(4, 0.5)]
    relay = Relay(Diary("log", told), Relay(Diary("screen", told), Watcher()))
    for event in news:
        relay.hear(event)
    assert told == [(name, event) for event in news for name in ("log", "screen")]


def test_an_event_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(ImagesDone(4, 0.5))) == ImagesDone(4, 0.5)
