"""What staff see and may do. To look is cheap whatever the tables hold; to change is to call a verb.

Nothing is edited by hand but budgets: the log is the truth, and a row changed without an event would disagree with it
on every device. That is also why a user with conversations cannot be deleted here; deactivate them instead.
"""

from chat.admin import budgets, conversations, files, messages, people, runs, summaries, tokens, workers

# Importing registers them.
__all__ = ["budgets", "conversations", "files", "messages", "people", "runs", "summaries", "tokens", "workers"]
