from typing import Any

import pytest

from app.catalogue import Models, Plan
from app.errors import (
    InvalidOption,
    ModelFailed,
    ModelLoading,
    ModelNotLoaded,
    NoWorker,
    UnknownModel,
)
from app.options import ExplainOptions, PredictOptions
from app.types import Catalogue, MethodInfo, ModelInfo, ModelState
from tests.fakes import CATALOGUE, COLOURS, TWINS

MODELS = Models([CATALOGUE])


def worker(*models: ModelInfo) -> Catalogue:
    return CATALOGUE.model_copy(update={"models": models})


def plan(model: ModelInfo = COLOURS, max_maps: int = 4, **options: object) -> Plan:
    return MODELS.plan(model, ExplainOptions.model_validate(options), max_maps)


CAM = ("activations", "gradients")
VARIED = {
    method.name: method
    for method in (
        MethodInfo(name="gradcam", title="", paper="", cost="", needs=CAM),
        MethodInfo(name="layercam", title="", paper="", cost="", needs=CAM, several_layers=True),
        MethodInfo(name="finercam", title="", paper="", cost="", needs=CAM, against=True),
        MethodInfo(name="saliency", title="", paper="", cost="", needs=("input_gradients",)),
    )
}


def plan_of_many(**options: object) -> Plan:
    models = Models([CATALOGUE.model_copy(update={"methods": tuple(VARIED.values())})])
    model = COLOURS.model_copy(update={"methods": tuple(VARIED)})
    return models.plan(model, ExplainOptions.model_validate(options), 9)


def test_a_model_has_the_best_state_that_it_has_on_any_worker() -> None:
    states: list[ModelState] = ["unloaded", "failed", "loading", "ready"]
    for number, best in enumerate(states):
        seen = [ModelInfo(name="m", state=state) for state in states[: number + 1]]
        for order in (seen, seen[::-1]):
            assert Models([worker(model) for model in order]).get("m").state == best


def test_models_are_listed_once_and_by_name() -> None:
    names = [model.name for model in Models([CATALOGUE, CATALOGUE])]
    assert names == ["broken", "colours", "late", "shelved", "twins"]


def test_methods_and_version_come_with_the_workers() -> None:
    assert list(MODELS.methods) == ["gradcam", "layercam", "lime"]
    assert (MODELS.torch, Models([]).torch) == ("0.0", "")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nonsense", UnknownModel),
        ("shelved", ModelNotLoaded),
        ("late", ModelLoading),
        ("broken", ModelFailed),
    ],
)
def test_a_model_that_does_not_serve_raises_what_it_is(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        MODELS.ready(name)
    assert MODELS.ready("colours") is COLOURS


def test_without_workers_no_model_is_unknown() -> None:
    with pytest.raises(NoWorker) as caught:
        Models([]).ready("nonsense")
    assert caught.value.retry_after


def test_missing_models_are_named_with_the_reason() -> None:
    assert MODELS.missing(["colours"]) == {}
    assert MODELS.missing(["late", "broken"]) == {
        "late": "loading",
        "broken": "head(features(x)) is not model(x)",
    }
    assert Models([]).missing(["colours"]) == {"colours": "no worker is up"}


def test_a_model_that_was_unloaded_or_taken_away_on_purpose_is_not_missed() -> None:
    assert MODELS.missing(["shelved", "nonsense"]) == {}


def test_a_prediction_needs_no_plan() -> None:
    assert MODELS.plan(COLOURS, PredictOptions(), 1) == Plan()


def test_labels_become_indices_and_top_n_stays() -> None:
    assert plan(classes="blue,0,top1").classes == (2, 0, "top1")


def test_the_layer_is_named_only_where_it_is_not_the_models_own() -> None:
    assert plan().layers == ()
    assert plan(layer="deep").layers == ()
    assert plan(layer="deep.1").layers == ()
    assert plan(layer="shallow").layers == ("shallow",)


def test_only_what_a_batch_does_not_have_anyway_is_a_need() -> None:
    assert plan_of_many(method="gradcam").needs == ()
    assert plan_of_many(method="saliency,gradcam").needs == ("input_gradients",)


def test_a_plan_with_a_method_of_many_passes_is_slow() -> None:
    assert not plan(method="gradcam").slow
    assert plan(method="gradcam,lime").slow


def test_rivals_become_indices() -> None:
    assert plan_of_many(method="finercam", against="blue,0").against == (2, 0)


def test_a_method_for_several_layers_may_name_several() -> None:
    assert plan_of_many(method="layercam", layer="shallow,deep").layers == ("shallow", "deep")


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"method": "saliency", "layer": "deep"}, "layer", "saliency looks at no layer"),
        ({"method": "gradcam", "layer": "deep,shallow"}, "layer", "gradcam takes one layer"),
        ({"method": "layercam", "layer": "deep,deep.1"}, "layer", "twice"),
        ({"method": "gradcam", "against": "1"}, "against", "finercam alone"),
        ({"method": "finercam", "against": "top2"}, "against", "an index or a label"),
        ({"method": "finercam", "against": "mauve"}, "against", "no label 'mauve'"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(
    options: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message) as caught:
        plan_of_many(**options)
    assert [name for name, _ in caught.value.fields] == [field]


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"layer": "stem"}, "layer", "no layer 'stem'"),
        ({"method": "rise"}, "method", "gradcam, layercam, lime"),
        ({"classes": "mauve"}, "classes", "no label 'mauve'"),
        ({"classes": "3"}, "classes", "0 to 2"),
        ({"classes": "-1"}, "classes", "0 to 2"),
        ({"classes": "2,blue"}, "classes", "twice"),
        ({"classes": "0,1,2", "method": "gradcam,layercam"}, "classes", "6 maps; the limit is 4"),
    ],
)
def test_what_cannot_be_explained_names_the_option(
    options: dict[str, Any], field: str, message: str
) -> None:
    with pytest.raises(InvalidOption, match=message) as caught:
        plan(**options)
    assert [name for name, _ in caught.value.fields] == [field]


def test_a_shared_label_lists_the_indices_to_choose_from() -> None:
    with pytest.raises(InvalidOption, match="say which: 0, 2"):
        plan(TWINS, classes="crane")


def test_top_n_counts_no_more_maps_than_there_are_classes() -> None:
    assert plan(max_maps=3, classes="top9999").classes == ("top9999",)
    with pytest.raises(InvalidOption, match="3 maps; the limit is 2"):
        plan(max_maps=2, classes="top9999")


def test_positive_classes_are_as_many_as_there_may_be_maps() -> None:
    tags = COLOURS.model_copy(update={"activation": "sigmoid"})
    found = plan(tags, max_maps=2, classes="positive")
    assert (found.classes, found.maps) == (("positive2",), 2)
    with pytest.raises(InvalidOption, match="exclusive classes"):
        plan(classes="positive")
    with pytest.raises(InvalidOption, match="asks for 3 maps"):
        plan(tags, max_maps=2, classes="positive,0")
