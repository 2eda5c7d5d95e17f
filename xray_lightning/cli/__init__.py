"""Commands; the only place that knows Hydra."""

import os

# How long an OpenMP thread spins before it sleeps; GNU's default of milliseconds makes a training
# step 5 to 10 times slower beside any other load on the same cores. Measured on two cores, Xception
# at 64 px: 0.58 s a step as with the default when idle, 1.35 s beside one busy process. Read when
# torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
