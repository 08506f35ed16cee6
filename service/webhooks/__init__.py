"""Webhooks: which places may be called (`targets`), one call (`sending`), and who makes the calls (`deliverer`)."""
