-- Up to which `seq` events of the Prefect API have their resources in `event_resources`; later ones are looked through.

CREATE TABLE event_marks (
  name TEXT NOT NULL PRIMARY KEY,
  seq INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO event_marks SELECT 'resources', max(seq) FROM prefect_events HAVING count(*) > 0;
