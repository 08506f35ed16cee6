"""The damage bench: damaged copies of a model, what each detector says of their blocks, and how well it says it."""
