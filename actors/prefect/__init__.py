"""Actors behind the Prefect API: flows, flow runs, and what records their task runs."""
