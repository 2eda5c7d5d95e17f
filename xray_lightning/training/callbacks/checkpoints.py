"""The best and the last checkpoint of a run that may be moved between its parts."""

from pathlib import PurePath
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, but its memory of the best score goes with the files, wherever they lie.

    Lightning forgets the best score when the absolute folder is another one than before, so that
    the first epoch after a move would replace a better checkpoint. And where the score is undefined
    in every epoch, the last one is kept, not the first.
    """

    @property
    def choice(self) -> str:
        """By what the kept epoch was chosen."""
        if self._lacks_score():
            return f"last epoch: {self.monitor} was undefined in every one"
        return f"best {self.monitor}"

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether to keep this epoch."""
        again = current is not None and bool(current.isnan()) and self._lacks_score()
        return again or super().check_monitor_top_k(trainer, current)

    def _lacks_score(self) -> bool:
        score = self.best_model_score  # infinite: Lightning's word for undefined
        return score is not None and not bool(torch.as_tensor(score).isfinite())

    @property
    def state_key(self) -> str:
        """As Lightning's: checkpoints of runs before there was this class stay readable."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was known, every path by its file name in this folder."""

        def here(path: str) -> str:
            return str(PurePath(str(self.dirpath), PurePath(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": kept, "dirpath": self.dirpath}
        )
