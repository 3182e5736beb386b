"""What people write without this project: each consumer joins a group, one `group_send` per token, no log."""
