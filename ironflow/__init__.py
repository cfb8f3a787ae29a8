"""Durable workflows in one asyncio process."""
