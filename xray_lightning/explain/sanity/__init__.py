"""Is a map a picture of what the network does? Tests that a method of making maps can fail."""
