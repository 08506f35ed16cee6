"""A report as one HTML page that stands alone: no script, no network, light, dark, narrow and printed."""
