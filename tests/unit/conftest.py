"""What holds for all unit tests."""

from hypothesis import settings

# Nothing here is about time: a busy machine must not fail a test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
