"""Journal, readers and blobs behind small protocols."""
