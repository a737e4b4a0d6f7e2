"""What holds for all tests: none of them is about how fast the machine is."""

from hypothesis import settings

settings.register_profile("orchestrator", deadline=None)
settings.load_profile("orchestrator")
