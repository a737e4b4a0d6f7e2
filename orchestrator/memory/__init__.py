"""How many bytes one step takes, known without a GPU; and helpers for notebooks."""
