"""Agents to copy: docs/own-agent.md explains them, tests/test_own_agent.py runs them. Nothing of the app needs them."""
