"""What anyone can rerun: how many models work, and how long it takes to prepare one."""
