"""The history of a drill: what was asked, what was answered, what went wrong meanwhile, and what is there in the end.

    with HistoryWriter(folder / "worker-1.jsonl", "w1") as writer:
        writer.meta({"seed": 7, "workload": "bank"})
        operation = writer.invoke("transfer", {"from": 1, "to": 2, "amount": 3, "id": "a"})     # written before acting
        operation.ok(attempts=2)                                                               # or .fail(), .info()

    history = History.load([folder])

JSON lines, one object a line, one file for each process of the operating system; the files are merged by `t`. Every line has
`type`, `t` (nanoseconds of CLOCK_MONOTONIC, which the processes of one machine share) and `p` (who wrote it):

    {"type":"meta","t":..,"p":..,"v":{"seed":7,"workload":"bank","durable":true,...}}
    {"type":"invoke","t":..,"p":"w1","i":812,"f":"transfer","key":"..","v":{..},"intended":ns,"deadline":ns}
    {"type":"ok"|"fail"|"info","t":..,"p":"w1","i":812,"f":"transfer","v":{..},"attempts":2,"stage":"commit","code":2013,
     "class":"ambiguous","error":"OutcomeUnknown","node":"n1"}
    {"type":"fault","t":..,"p":"nemesis","f":"kill-server","phase":"start"|"end","id":3,"v":{..}}
    {"type":"wire","t":..,"p":"proxy","f":"commit-forwarded","c":17,"v":{..}}
    {"type":"sample","t":..,"p":"runner","v":{"fds":40,"rss_bytes":..,"checked_out":0,..}}
    {"type":"final","t":..,"p":"runner","f":"bank","v":{..}}
    {"type":"phase","t":..,"p":"runner","f":"baseline"|"faults"|"healed"|"final","phase":"start"|"end"}
    {"type":"closed","t":..,"p":"w1"}

`ok` is done, `fail` is definitely not done, `info` is unknown. An invoke without an end counts as `info`: its process was
killed if its file lacks the line `closed`, and else the operation hung. An operation that was due and never asked, because no
caller was free before its time was over, is a `fail` whose `error` is `NoCallerFree`; one that a limit turned away is a `fail`
with `LoadShed`, and tells in `v` after how many seconds it was told to come again (`retry_after_s`). The vocabulary is Jepsen's
(https://github.com/jepsen-io/jepsen, `jepsen.history`), so that its readers feel at home.
"""

from __future__ import annotations

from .events import (
    CONNECTING,
    NOT_SENT,
    NS,
    RETRY_AFTER,
    SHED,
    Answer,
    FaultSpan,
    Final,
    Operation,
    PhaseSpan,
    Sample,
    Wire,
    nanoseconds,
)
from .whole import History
from .writer import HistoryWriter, OpenOperation

__all__ = [
    "CONNECTING",
    "NOT_SENT",
    "NS",
    "RETRY_AFTER",
    "SHED",
    "Answer",
    "FaultSpan",
    "Final",
    "History",
    "HistoryWriter",
    "OpenOperation",
    "Operation",
    "PhaseSpan",
    "Sample",
    "Wire",
    "nanoseconds",
]
