"""Reference summaries, the simulated-bulk stream, splitters and readers."""
