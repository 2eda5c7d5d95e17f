"""Train a classifier: ``python train.py model=xception split=patient``; options: ``--help``."""

import sys

from xray_lightning.cli.train import train

if __name__ == "__main__":
    sys.exit(train())
