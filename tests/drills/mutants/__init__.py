"""Planted bugs, each of which must turn its checker red: `python -m tests.drills.mutants [name ...]`.

    mutant.py       what a mutant is, and the list of all
    stage.py        where scenes play: servers, tables, workers that write a history
    commits.py      COMMITs whose answer is lost, and callers that are interrupted
    contention.py   locks, conflicts, and the pace of retries
    service.py      what stands around the save: FastAPI, tenants, the retry budget
    crashes.py      servers that die, and servers that lag behind
    judges.py       bugs in the checkers themselves

A mutant is a *scene*, a short drill, mostly against real servers, and a *plant*, the bug in one sentence and a few lines.
Each scene plays twice: without the bug its checker must answer valid, with it invalid. Otherwise
either the checker is blind or the scene proves nothing, and the command fails.
"""
