"""What users import to write durable functions."""
