"""Data models (pydantic, dataclasses, tables): one module for each boundary. Nothing here does input or output."""
