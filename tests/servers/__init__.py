"""What tests put around a real server of `holdfast.drills.servers`: a client that classifies, a relay that cuts.

Tests take the servers from the session fixtures `mariadb_server`, `postgresql_server` and `mysql_server`.
"""
