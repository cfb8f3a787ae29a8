"""The kernel, the actors and what they stand on, by what they are about.

kernel        `kernel` (actors, ask and tell), `cell` (one live actor), `system` (names, turns,
              services), `stream` (actors whose state is the fold of a stream), `timers`, `outbox`
              (durable messages), `virtual_time` (a loop whose time jumps)
engine        `engine` (puts all of it together), `environment` (what actors share), `recovery` (a
              start), `janitor` (retention), `audit` (what must hold between streams and rows)
a run         `run` (its actor), `run_batch` and `run_rows` (its commits and rows), `admission`
              (before it exists), `endings` (who waits for its end), `effects` (reports of a body
              in this process)
events        `emissions`, `router`, `waiters` (who waits for which), `schedule` (cron)
before a run  `intake` (what its actors share), `pending` (debounce and batch), `singleton`,
              `intakes` (their doors), `intake_audit`
whose turn    `hosts` (where a body executes, and its slot), `pool` (slots of this process),
              `waiting_rows` and `lines` (who waits, in which order), `lanes` and `windows` (flow
              control)
elsewhere     `elsewhere` (what workers and endpoints have in common), `jobs` (leases and
              reports), `run_record`
- workers     `fleet`, `worker` (its actor), `worker_queue`, `affinity` (actor keys), `exchange`
              (jobs that come with answers)
- endpoints   `endpoints`, `call_slots`, `breakers`, `introspection` (what one says it serves)
doors         `catalog` (functions), `keyring` (keys), `registrar` (projects, environments),
              `unbroken` (changes that outlive their request), `workflows`, `handlers` and
              `streams` (event-driven workflows)

`ironflow.actors.prefect` has the actors behind the Prefect API.
"""
