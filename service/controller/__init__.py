"""The driver: claims audits, runs them on Ray, publishes their reports. Only it imports ray in the service."""
