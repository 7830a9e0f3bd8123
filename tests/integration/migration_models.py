"""Two releases of an application's models; apart from the tests, so that a process that migrates loads nothing else."""

from __future__ import annotations

from sqlalchemy import Column, Enum, ForeignKey, Index, Integer, MetaData, String, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem

__all__ = ["first", "second"]


def first(*more: SchemaItem) -> MetaData:
    """The models of the first release, or of one with something more in their table."""
    models = MetaData()
    own = (Column("id", Integer, primary_key=True), Column("name", String(100)), Column("old", Integer))
    Table("users", models, *own, *more)
    return models


def second() -> MetaData:
    """The models of the next one: a new table, new columns of every kind, a new index; one column gone, one narrower."""
    models = MetaData()
    level = Enum("low", "high", name="level")
    Table(
        "teams",
        models,
        Column("id", Integer, primary_key=True),
        Column("level", level),
        Column("code", String(9), index=True),
    )
    Table(
        "users",
        models,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), nullable=False, index=True),
        Column("age", Integer, nullable=False, server_default="18"),
        Column("nick", String(50), unique=True, index=True),
        Column("mail", String(50)),
        Column("level", level),
        Column("team_id", Integer, ForeignKey("teams.id")),
        UniqueConstraint("mail", name="one_mail"),
        Index("names_once", "name", unique=True),
    )
    return models
