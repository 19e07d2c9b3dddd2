"""Health, readiness checks, gauges and backlog figures for operators."""
