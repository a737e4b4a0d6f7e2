"""YOLO models through ultralytics' own trainers: detect, segment, pose, obb and classify."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import DataError, OrchestratorError, StoreError
from orchestrator.ports import Device, RunLink
from orchestrator.trainer.heap import hold_heap
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.options_memory import memory_options
from orchestrator.trainer.yolo_apart import apart, on_host
from orchestrator.trainer.yolo_data import read_class_folders, read_data_yaml
from orchestrator.trainer.yolo_labels import check_data
from orchestrator.trainer.yolo_settings import note_ours, overrides
from orchestrator.types import CheckpointRef, Metrics, Outcome, TrainTask

if TYPE_CHECKING:
    from orchestrator.trainer.governor import Governor
    from orchestrator.trainer.ranks import Ranks

__all__ = ["YoloTrainer"]

_LOG = logging.getLogger(__name__)


class YoloTrainer:
    """Trains with ultralytics, whose loop, losses, augmentation and schedules are left as they are.

    What is added: the effective batch is kept whatever fits the card (the step is cut), every
    epoch leaves a verified checkpoint that holds everything, and a resumed run goes on with the
    numbers of one that was never interrupted (exactly so with `workers: 0`).
    """

    def fit(self, task: TrainTask, device: Device, link: RunLink) -> tuple[Outcome, Metrics]:
        """Train from `link.resume_from` to the last epoch, early stopping, or a stop request.

        Raises:
            ConfigError: ultralytics is missing, or a setting or the architecture is wrong.
            DataError: The data set or the weights are wrong.
            StoreError: The checkpoint to resume from cannot be read.
            TrainingError: OUT_OF_MEMORY or NAN_LOSS.
        """
        from orchestrator.trainer.ranks import joined

        ddp, _ = ddp_options(task.spec.settings.options)
        with joined(task, ddp, is_cuda=device.torch_device.startswith("cuda")) as ranks:
            return self._fit(task, device, link, ranks)

    def _fit(
        self, task: TrainTask, device: Device, link: RunLink, ranks: "Ranks"
    ) -> tuple[Outcome, Metrics]:
        from orchestrator.trainer.governor import Governor

        hold_heap()
        options, _ = memory_options(task.spec.settings.options)
        governor = Governor(task, device, link, options, agree=ranks.most_and_least)
        with apart(task.spec.folder):
            try:
                return _train(task, device, link, governor, ranks)
            except OrchestratorError:
                raise
            except Exception as error:
                if not device.is_out_of_memory(error):
                    raise
                why = (str(error).splitlines() or [type(error).__name__])[0]
            # Outside of the handler the error is gone, and with it the frames that held tensors.
            device.release()
            raise governor.gave_up(why)


def _train(
    task: TrainTask, device: Device, link: RunLink, governor: "Governor", ranks: "Ranks"
) -> tuple[Outcome, Metrics]:
    from orchestrator.trainer.choices import Choices, chosen
    from orchestrator.trainer.handover import best_yolo
    from orchestrator.trainer.unfinished import agreed_unfinished
    from orchestrator.trainer.yolo_attempt import Attempt, Leave
    from orchestrator.trainer.yolo_loop import orchestrated
    from orchestrator.trainer.yolo_model import find_model, trainer_of

    model = find_model(task.spec.settings.model)
    data = _data(task, model.task, is_fresh=link.resume_from is None)
    told = {"data": data, "model": model.path}
    given = overrides(task, torch_device=device.torch_device, **told) | {"task": model.task}
    found = chosen("yolo", task, device, {"arguments": given}) if ranks.is_first else ()
    choices = Choices(ranks.of_first(found), task.findings)
    if choices.rows:
        settings = choices.applied(task.spec.settings)
        task = replace(task, spec=replace(task.spec, settings=settings))
        given |= overrides(task, torch_device=device.torch_device, **told)
    attempt = Attempt(
        task=task,
        device=device,
        link=link,
        governor=governor,
        ranks=ranks,
        ddp=ddp_options(task.spec.settings.options)[0],
        memory=memory_options(task.spec.settings.options)[0],
        choices=choices,
    )
    kept = agreed_unfinished(link, ranks)
    if kept is not None:
        with on_host(device):
            attempt.kept = _state(kept)
    if link.resume_from is not None:
        attempt.base = link.resume_from.sha256
        with on_host(device):
            attempt.state = _state(link.resume_from)
    elif task.weights is not None:
        with on_host(device):
            attempt.weights = best_yolo(task.weights)
    is_finished = attempt.state is not None and bool(attempt.state["finished"])
    trainer = orchestrated(trainer_of(model.task), attempt)(given)
    if task.rank == 0:
        note_ours(trainer.save_dir / "args.yaml", task.spec.settings.options)
    trainer.publish_arguments()
    try:
        if is_finished:
            trainer.finish_again()
        else:
            trainer.train()
    except Leave:
        trainer.write_best()
        return Outcome.YIELDED, attempt.best.get("metrics", {})
    finally:
        trainer.close()
    return Outcome.FINISHED, attempt.best.get("metrics", {})


def _data(task: TrainTask, kind: str, *, is_fresh: bool) -> str:
    """Validate the data set and return what ultralytics is given in its place."""
    source = Path(task.spec.settings.data).expanduser().absolute()
    data = read_class_folders(source) if kind == "classify" else read_data_yaml(source)
    if kind == "pose" and data.kpt_shape is None:
        raise DataError(f"{source} has no kpt_shape", code="E3205", fix=("kpt_shape: [17, 3]",))
    if is_fresh and task.rank == 0:  # what was checked once is not read through at every resume
        count = check_data(data, kind)
        _LOG.info("%d pictures of %s can be used", count, source)
    return str(source) if kind == "classify" else str(data.write(Path(task.folder)))


def _state(checkpoint: CheckpointRef) -> dict[str, Any]:
    import pickle

    from orchestrator.trainer.yolo_state import read

    try:
        with Path(checkpoint.path).open("rb") as file:
            return read(file)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise StoreError(
            f"the checkpoint {checkpoint.path} cannot be read",
            code="E5020",
            why=(str(error).splitlines()[0] if str(error) else type(error).__name__,),
            fix=("resume from an older one, or start the run anew",),
        ) from error
