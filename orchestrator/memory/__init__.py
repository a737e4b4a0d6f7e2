"""How many bytes one step takes, known without a GPU; and helpers for notebooks."""

from orchestrator.memory.notebook import clear_gpu_memory, monitor_gpu_memory, print_gpu_memory

__all__ = ["clear_gpu_memory", "monitor_gpu_memory", "print_gpu_memory"]
