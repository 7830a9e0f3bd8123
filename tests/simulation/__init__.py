"""Every schedule with at most two faults, played against the engine and both shells, with nothing real but the code.

    server        a database in memory: locks that block, a committed log, transactions that outlive their client
    faults        what can go wrong, and at which step
    client        what a port does with that server, as moves
    ports         a synchronous and an asynchronous way to make those moves
    virtual_time  a clock that nobody waits for, and an event loop that runs on it
    scenario      one case from its name: the call, the process after a crash, the second caller, the dust settled
    checks        what must hold of the story that a case leaves behind
    enumeration   all cases there are

A red case prints a line that replays it: `python -m tests.simulation "sync keyed: commit.1=lost-late begin.2=refused"`.
"""
