"""Pure scheduling: who runs where, and when."""
