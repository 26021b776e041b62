"""cnngraph."""
