"""What the claims judge by: seeds that solve a task, budgets of compute, intervals and tests."""
