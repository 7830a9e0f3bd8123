"""The reference service: users, accounts and transfers whose money neither gets lost nor moves twice."""
