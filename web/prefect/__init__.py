"""The Prefect face: what an unmodified Prefect 3 client, CLI or worker is answered under `/api`."""
