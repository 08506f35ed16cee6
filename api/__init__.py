"""HTTP front end. Imports `peelbound.service`; never torch, never ray."""
