"""The durable store: one file, one process that writes it.

`store`         opens it, and puts the parts together
`connection`    connections, their pragmas, a hop for a whole function
`lock`          one process a database
`schema`        migrations, and whose file it is
`sql`           named statements
`writer`        the journal
`plan`          one commit, prepared on the loop
`pace`          where a commit is made: on the loop, or in the thread
`wal`           how long the log is, checkpoints, room ahead of it
`deferral`      what commits put off
`backlog`       that, as it waits in memory
`changes`       that, merged by key
`foreign`       entries of other programs in our places
`statements`    many rows in one step
`reader`        queries
`page_queries`  the SQL of pages
`retention`     deletes in chunks between commits
`errors`        what an error of SQLite means
"""
