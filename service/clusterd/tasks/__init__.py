"""Work that runs once, not once a worker: when, by whose code, and never twice at a time. Decided here, purely."""
