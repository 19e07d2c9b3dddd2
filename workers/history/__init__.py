"""History: observations projected into mirror and events, for consistency checks, rebuild and as-of."""
