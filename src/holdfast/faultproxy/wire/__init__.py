"""What a database connection says, as far as a fault has to know: where a statement ends, what it is, when it is answered.

Pure: bytes in, pieces out; no socket, no clock. `mysql.py` and `postgresql.py` each read both directions of one connection,
`sql.py` tells BEGIN, COMMIT and ROLLBACK from the rest, `conversation.py` has the words they share.
"""
