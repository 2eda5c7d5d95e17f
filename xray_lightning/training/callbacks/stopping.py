"""SIGTERM ends a run as whoever started the process wants it, not as Lightning does."""

import signal

import pytorch_lightning as pl


class KeepSigterm(pl.Callback):
    """Puts the handler of SIGTERM back that was there before.

    Lightning's own ends a fit at the next batch with exit code 0, is silent in a prediction, and
    broadcasts between processes from inside the handler, which can hang.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Undo what the trainer has just done."""
        if callable(self._handler):  # nobody's: Lightning's stays
            signal.signal(signal.SIGTERM, self._handler)

    on_predict_start = on_train_start
