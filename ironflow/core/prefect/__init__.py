"""The Prefect API's own ideas, pure: its states and rules, its filters, its events."""
