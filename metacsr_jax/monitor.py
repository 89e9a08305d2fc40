"""What a run shows and keeps while it trains: progress bar, metrics.jsonl, TensorBoard event files."""

import contextlib
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from metacsr_jax.config import Config
from metacsr_jax.step import StepReport
from metacsr_jax.validation import Validation
from metacsr_jax.workdir import append_record


class Monitor(contextlib.AbstractContextManager):
    """Takes the reports of chunks and validations."""

    def __init__(self, workdir: Path, step: int, config: Config, show: bool):
        """Starts at `step`; records of a resumed run continue those there."""
        train = config.train
        self._file = workdir / "metrics.jsonl"
        self._pretrain_steps = train.pretrain_steps
        self._tasks = config.tasks.tasks
        self._samples = config.tasks.pretrain_batch
        self._events = SummaryWriter(str(workdir / "events"), purge_step=step + 1 if step else 0)
        self._bar = tqdm(
            total=train.pretrain_steps + train.steps,
            initial=step,
            unit="step",
            disable=not show,
            dynamic_ncols=True,
        )

    def steps(self, step: int, reports: StepReport, seconds: float) -> None:
        """Records a chunk that ended at `step` and took `seconds`."""
        pretraining = step <= self._pretrain_steps
        means = {name: float(value.mean()) for name, value in reports._asdict().items()}
        rate = self._tasks * reports.loss.size / seconds
        record = {"step": step, "phase": "pretrain" if pretraining else "meta", **means}
        append_record(self._file, {**record, "seconds": seconds})
        for name, value in means.items():
            self._events.add_scalar(f"train/{name}", value, step)
        self._bar.set_description("pre-training" if pretraining else "meta-training")
        shown = {"loss": f"{means['loss']:.3f}"}
        if pretraining:
            shown["samples/s"] = f"{self._samples * reports.loss.size / seconds:.0f}"
        else:
            shown["tasks/s"] = f"{rate:.0f}"
            self._events.add_scalar("train/tasks_per_second", rate, step)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def validation(self, step: int, validation: Validation) -> None:
        """Records a validation after `step`."""
        by_steps = {str(steps): metrics for steps, metrics in validation.items()}
        append_record(self._file, {"step": step, "validation": by_steps})
        for steps, metrics in validation.items():
            for name, value in metrics.items():
                self._events.add_scalar(f"validation/{name}/{steps}_steps", value, step)
        shown = ", ".join(
            f"{steps} steps {m['auc']:.4f} / {m['map']:.4f}" for steps, m in validation.items()
        )
        if not self._bar.disable:
            self._bar.write(f"step {step}: validation AUC / MAP at {shown}")

    def __exit__(self, *exception):
        self._bar.close()
        self._events.close()
