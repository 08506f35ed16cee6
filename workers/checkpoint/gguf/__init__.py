"""GGUF: one file that holds configuration, tokenizer and weights, most of them quantised in small blocks."""
