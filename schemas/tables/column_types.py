"""Column types that the tables share, and the naming convention of constraints."""

from sqlalchemy import JSON, BigInteger, Integer, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

# Batch migrations on SQLite find constraints by name, so each one needs a name.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA: MetaData = SQLModel.metadata

Big = BigInteger().with_variant(Integer, "sqlite")
# Ids are compared byte by byte, as in Python, because row locks and cursors depend on one order.
Key = String().with_variant(String(collation="C"), "postgresql")
Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
