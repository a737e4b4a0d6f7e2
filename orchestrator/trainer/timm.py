"""Trains one timm classifier, and says how an attempt at it went wrong."""

from orchestrator.errors import DataError, OrchestratorError, TrainingError
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.failures import single_sample
from orchestrator.trainer.governor import Governor
from orchestrator.trainer.heap import hold_heap
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.options_memory import memory_options
from orchestrator.trainer.ranks import Ranks, joined
from orchestrator.trainer.timm_run import TimmRun
from orchestrator.types import (
    Cause,
    Metrics,
    Outcome,
    TrainTask,
)

__all__ = ["TimmTrainer"]


class TimmTrainer:
    """Implements `ports.Trainer` for `timm/<name>` models on pictures in class folders.

    A step takes the effective batch and runs it in micro-batches. Order and augmentation are
    keyed, and checkpoints hold everything else, so a resumed run equals the undisturbed one.
    """

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        """Train from `link.resume_from` to the last epoch, early stopping, or a stop request.

        Raises:
            ConfigError: The settings are wrong; nothing was trained.
            TrainingError: DATA_ERROR (a picture, folder or weights file), OUT_OF_MEMORY,
                NAN_LOSS, HOST_OUT_OF_MEMORY (a loading process died), USER_ERROR.
        """
        ddp, _ = ddp_options(task.spec.settings.options)
        with joined(task, ddp, is_cuda=device.torch_device.startswith("cuda")) as ranks:
            return self._fit(task, device, link, ranks)

    def _fit(
        self, task: TrainTask, device: Device, link: RunLink, ranks: Ranks
    ) -> tuple[Outcome, Metrics]:
        hold_heap()
        options, _ = memory_options(task.spec.settings.options)
        governor = Governor(task, device, link, options, agree=ranks.most_and_least)
        try:
            return TimmRun(task, device, link, governor, ranks).train()
        except DataError as error:
            raise TrainingError(
                error.what,
                cause=Cause.DATA_ERROR,
                code=error.code,
                why=error.why,
                fix=error.fix,
            ) from error
        except OrchestratorError:
            raise
        except Exception as error:
            if "more than 1 value per channel" in str(error):
                if governor.micro_batch < task.batch.micro_batch:  # nobody asked for such pieces
                    raise governor.gave_up(str(error)) from error
                raise single_sample(task) from error
            if not device.is_out_of_memory(error):
                raise
            why = (str(error).splitlines() or [type(error).__name__])[0]
        # Outside of the handler the error is gone, and with it the frames that held the tensors.
        device.release()
        raise governor.gave_up(why)
