"""The state machine: what should happen next, decided without a clock, a file, a log or a socket.

Read in this order: model (what is known), lifecycle (the tables and their laws), events, actions, slots, backoff,
rules (what follows from the joint state), machine (`step`, `deadline`), invariants (what must always hold).
"""
