"""Pure planning: how a step is cut so that it fits."""
