"""The wire: what goes in and out of Peelbound, as pydantic models shared by the API, the client and the service."""
