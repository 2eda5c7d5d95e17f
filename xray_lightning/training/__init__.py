"""How a network learns: task, losses, optimisers, callbacks."""
