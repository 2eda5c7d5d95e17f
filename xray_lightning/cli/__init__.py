"""Commands; the only place that knows Hydra."""

import os

# OpenMP threads that spin while they wait made a training step 5 to 10 times slower beside any
# other load on the same cores; sleeping ones cost nothing measurable. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
