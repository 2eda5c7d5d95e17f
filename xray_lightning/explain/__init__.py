"""Where a network sees a finding: maps of every method, and whether they can be believed."""
