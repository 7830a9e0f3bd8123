"""`make demo`: the same traffic and the same faults, three times: unprotected, with tenacity, with Holdfast."""
