"""Drills: real saves under real faults, a history of what happened, and checkers that judge it.

A *workload* says what is saved, a *subject* how (with Holdfast, with SQLAlchemy alone, with tenacity around it), a *fault* what
goes wrong meanwhile. The *runner* brings them together and writes a *history*; *checkers* read the history, and nothing else,
and answer with *verdicts*; the *report* shows both.

Needs the extra `drills`.
"""
