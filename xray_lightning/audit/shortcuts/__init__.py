"""Does a network read the film instead of the chest? Tests, each with a verdict."""
