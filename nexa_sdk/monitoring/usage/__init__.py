"""What calls of LLM APIs used and cost: caught on their way, added by hand, or imported; into the ledger, once each."""
