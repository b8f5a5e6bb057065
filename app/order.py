"""A request, checked against what the workers serve before anything is done."""

from dataclasses import dataclass, replace

from app.catalogue import Models, Plan
from app.checks import questions
from app.errors import InvalidOption
from app.options import ExplainOptions, PredictOptions
from app.types import Job, ModelInfo, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may ask for."""

    max_pixels: int
    max_maps: int
    max_picture_pixels: int
    max_budget: int
    deadline_s: float
    slow_deadline_s: float


@dataclass(frozen=True, slots=True)
class Order:
    """A request that was found to be possible; ``deadline`` in ``time.monotonic()``."""

    options: PredictOptions
    models: Models
    model: ModelInfo
    plan: Plan
    budget: int
    seconds: float
    deadline: float

    def question(self, pixels: Pixels) -> Job:
        """A job that asks for the scores alone."""
        return Job(
            model=self.model.name,
            version=str(self.model.version),
            pixels=pixels,
            deadline=self.deadline,
        )

    def job(self, pixels: Pixels) -> Job:
        """The job that this order is: scores, and the maps that it asks for."""
        plan = self.plan
        return replace(
            self.question(pixels),
            classes=plan.classes,
            methods=plan.methods,
            layers=plan.layers,
            against=plan.against,
            needs=plan.needs,
            slow=plan.slow,
            seed=self.options.seed if isinstance(self.options, ExplainOptions) else 0,
            budget=self.budget,
        )


def make_order(
    models: Models,
    name: str,
    options: PredictOptions,
    limits: RequestLimits,
    *,
    began: float,
    masked: bool,
) -> Order:
    """Check what is asked for.

    Args:
        models: all there are.
        name: of the one to use.
        options: of the request.
        limits: of any request.
        began: when the request's time began to run.
        masked: whether a mask came with it.

    Raises:
        CamserveError: the model cannot be used now, or an option cannot be met.
    """
    model = models.ready(name)
    plan = models.plan(model, options, limits.max_maps)
    budget, slow = limits.max_budget, plan.slow
    if isinstance(options, ExplainOptions):
        _check_questions(options, plan, limits.max_budget, masked=masked)
        budget = _budget(options, limits.max_budget)
        slow = slow or bool(options.check)
    seconds = options.seconds(limits.slow_deadline_s if slow else limits.deadline_s)
    return Order(options, models, model, plan, budget, seconds, began + seconds)


def _check_questions(options: ExplainOptions, plan: Plan, limit: int, *, masked: bool) -> None:
    if masked and options.region is not None:
        raise InvalidOption.of("region", "is given as a box and as a mask")
    if options.counterfactual and not (masked or options.region):
        raise InvalidOption.of("counterfactual", "needs a region or a mask")
    asked = questions(options, plan.maps)
    if asked > limit:
        raise InvalidOption.of("check", f"needs {asked} passes; the limit is {limit}")


def _budget(options: ExplainOptions, limit: int) -> int:
    if options.budget is not None and options.budget > limit:
        raise InvalidOption.of("budget", f"the limit is {limit}")
    return options.budget or limit
