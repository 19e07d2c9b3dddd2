"""Shapes only: one file per boundary that data crosses. Nothing here does input or output."""
