"""What a run shows and keeps while it trains: progress bar, metrics.jsonl, TensorBoard event files."""

import contextlib
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from metacsr_jax.model import Model, Phase
from metacsr_jax.parallel import writes
from metacsr_jax.step import StepReport
from metacsr_jax.validation import Validation
from metacsr_jax.workdir import append_record


class Monitor(contextlib.AbstractContextManager):
    """Takes the reports of chunks and validations."""

    def __init__(self, workdir: Path, step: int, model: Model, show: bool):
        """Starts at `step`; records of a resumed run continue those there."""
        self._file = workdir / "metrics.jsonl"
        self._events = SummaryWriter(
            str(workdir / "events"),
            purge_step=step + 1 if step else 0,
            write_to_disk=writes(),
        )
        self._bar = tqdm(
            total=model.total,
            initial=step,
            unit=model.unit,
            disable=not show or not model.total,
            dynamic_ncols=True,
        )

    def steps(self, step: int, phase: Phase, reports: StepReport, seconds: float) -> None:
        """Records a chunk of a phase that ended at `step` and took `seconds`."""
        means = {name: float(value.mean()) for name, value in reports._asdict().items()}
        rate = phase.per_step * reports.loss.size / seconds
        append_record(self._file, {"step": step, "phase": phase.key, **means, "seconds": seconds})
        for name, value in means.items():
            self._events.add_scalar(f"train/{name}", value, step)
        self._events.add_scalar(f"train/{phase.counts}_per_second", rate, step)
        self._bar.set_description(phase.title)
        shown = {"loss": f"{means['loss']:.3f}", f"{phase.counts}/s": f"{rate:.0f}"}
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
            self._bar.write(f"{self._bar.unit} {step}: validation AUC / MAP at {shown}")

    def __exit__(self, *exception):
        self._bar.close()
        self._events.close()
