"""Resources of the API: one module for each, with its queries and operations."""
