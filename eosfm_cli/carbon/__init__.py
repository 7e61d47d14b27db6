"""What the work cost: tracker and ledger."""
