"""Journal, readers and blobs behind small protocols. A room for each thing.

`ports`         what the rest of ironflow may ask of storage
`rows`          what crosses these ports
`journal`       group commit: what every journal has in common
`retention`     rules of what is kept, normalised
`sqlite`        the durable store, in one file
`memory`        its twin without a file
`relational`    tables that faces filter by anything: SQLite in every store
`maintenance`   what `ironflow db` does with a file
`secret_files`  secrets out of a folder
"""
