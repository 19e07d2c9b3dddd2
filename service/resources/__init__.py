"""Resources of the API: each module has the list, the queries and the operations of its routes."""
