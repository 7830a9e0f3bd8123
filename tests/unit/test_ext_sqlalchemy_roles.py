"""Who takes writes: what each flavour is asked, and what its answers mean."""

from __future__ import annotations

import pymysql
import pytest

from holdfast.dialects import Flavour, classify
from holdfast.ext.sqlalchemy.origin import doubts_server
from holdfast.ext.sqlalchemy.roles import proof_from, questions
from holdfast.failover import Proof
from holdfast.outcome import FailureClass, Stage

FREE = {"read_only": "OFF"}
SYNCED = {"wsrep_ready": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state_comment": "Synced"}
ALONE = {"wsrep_ready": "OFF", "wsrep_cluster_status": "non-Primary", "wsrep_local_state_comment": "Initialized"}


def mariadb(variables: dict[str, str], status: dict[str, str] | None = None) -> Proof:
    return proof_from(Flavour.MARIADB, [list(variables.items()), list((status or {}).items())])


@pytest.mark.parametrize("stage", [Stage.BODY, Stage.COMMIT])
def test_node_that_lost_its_cluster_while_it_wrote_is_asked(stage: Stage) -> None:
    """It answers 1180 instead of 1047: the save is a doubt to be settled, and the node is asked, which takes no writes."""
    text = "Error while appending streaming replication fragment(provider status: Not connected to Primary Component)"
    error = pymysql.err.OperationalError(1180, text)
    failure = classify(error, stage=stage, flavour=Flavour.MARIADB)
    assert failure.failure_class is FailureClass.AMBIGUOUS
    assert doubts_server(error, failure)
    assert not mariadb({**FREE, "wsrep_on": "ON"}, ALONE).writable


@pytest.mark.parametrize("flavour", [Flavour.MARIADB, Flavour.MYSQL, Flavour.POSTGRESQL])
def test_questions_change_nothing(flavour: Flavour) -> None:
    """A server is only looked at, with what every user may see."""
    assert all(asked.startswith(("SHOW GLOBAL ", "SELECT ")) for asked in questions(flavour))


def test_writer_is_proven() -> None:
    """A server that says of nothing that it forbids writes takes them."""
    assert mariadb(FREE) == Proof(writable=True)
    assert proof_from(Flavour.MYSQL, [[("read_only", "OFF"), ("super_read_only", "OFF"), ("offline_mode", "OFF")]]) == (
        Proof(writable=True)
    )
    assert proof_from(Flavour.POSTGRESQL, [[(False, "off")]]) == Proof(writable=True)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("read_only", "ON"),
        ("read_only", "1"),
        ("read_only", "NO_LOCK_NO_ADMIN"),
        ("super_read_only", "ON"),
        ("offline_mode", "ON"),
    ],
)
def test_server_that_forbids_writes_is_no_writer(variable: str, value: str) -> None:
    """Each of its switches says so alone, and is named."""
    assert mariadb({**FREE, variable: value}) == Proof(writable=False, reason=f"it has {variable}={value}")


@pytest.mark.parametrize("value", ["OFF", "0"])
def test_switch_that_is_off_is_off(value: str) -> None:
    """However the server writes it."""
    assert mariadb({"Read_Only": value}).writable


def test_standby_is_no_writer() -> None:
    """A PostgreSQL server in recovery, or one whose transactions begin read-only."""
    assert proof_from(Flavour.POSTGRESQL, [[(True, "off")]]).reason == "it is a standby (pg_is_in_recovery)"
    proof = proof_from(Flavour.POSTGRESQL, [[(False, "on")]])
    assert (proof.writable, proof.reason) == (False, "it is read-only (default_transaction_read_only)")


def test_node_of_a_cluster_is_a_writer_when_its_cluster_serves() -> None:
    """It says of itself that it belongs to a cluster, so that whoever moves there has it prove that it has caught up."""
    assert mariadb({**FREE, "wsrep_on": "ON"}, SYNCED) == Proof(writable=True, clustered=True)


def test_donor_goes_on_serving() -> None:
    """A node that another one copies from takes writes as long as it says it is ready."""
    assert mariadb({**FREE, "wsrep_on": "ON"}, {**SYNCED, "wsrep_local_state_comment": "Donor/Desynced"}).writable


def test_node_without_its_cluster_is_no_writer() -> None:
    """The reason names what the node says of itself."""
    proof = mariadb({**FREE, "wsrep_on": "ON"}, ALONE)
    assert (proof.writable, proof.clustered) == (False, True)
    assert proof.reason == "its cluster does not serve it (non-Primary, Initialized)"


def test_node_that_is_read_only_is_no_writer() -> None:
    """A cluster in order does not lift the node's own switch."""
    proof = mariadb({"read_only": "ON", "wsrep_on": "ON"}, SYNCED)
    assert (proof.writable, proof.clustered) == (False, True)


def test_server_outside_of_a_cluster_has_no_state_of_one() -> None:
    """MariaDB shows Galera's variables also where the library is not loaded."""
    assert mariadb({**FREE, "wsrep_on": "OFF"}, ALONE) == Proof(writable=True)
