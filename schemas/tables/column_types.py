"""Kinds of columns that the tables have in common, and how their constraints are named."""

from sqlalchemy import JSON, BigInteger, Integer, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

# Batch migrations on SQLite find constraints by name, so every one has a name.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA: MetaData = SQLModel.metadata

Big = BigInteger().with_variant(Integer, "sqlite")
# Ids compare byte by byte, as Python does: every transaction locks rows in one order, and cursors page in it.
Key = String().with_variant(String(collation="C"), "postgresql")
Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
