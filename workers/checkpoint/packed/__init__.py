"""Packed weights, one module per layout: which stored tensors belong together, and how they are dequantised."""
