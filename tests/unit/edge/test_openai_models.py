from __future__ import annotations

from dragoman.v1.catalog_service_pb2 import Model, ModelCapabilities, ModelPrices, NumberRange
from dragoman.v1.sampling_pb2 import MODALITY_IMAGE, MODALITY_TEXT
from dragoman_edge.dialects.openai.answers import ANSWERS
from dragoman_edge.dialects.openai.models import model_object


def test_what_is_known_is_told() -> None:
    model = Model(
        id="deepseek/deepseek-chat-v3",
        owner="deepseek",
        context_length=65_536,
        max_output_tokens=8192,
        input_modalities=[MODALITY_TEXT, MODALITY_IMAGE],
        output_modalities=[MODALITY_TEXT],
        capabilities=ModelCapabilities(chat=True, tools=True),
        limits={"temperature": NumberRange(min=0, max=1), "max_output_tokens": NumberRange(min=1, max=100)},
        defaults={"top_p": 0.5},
        prices=ModelPrices(
            currency_code="USD", input_micros=270_000, output_micros=1_100_000, cached_input_micros=70_000
        ),
    )
    model.create_time.seconds = 1_700_000_000
    told = model_object(model)
    ANSWERS["Model"].validate_python(told)
    assert told == {
        "id": "deepseek/deepseek-chat-v3",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "deepseek",
        "context_length": 65_536,
        "max_output_tokens": 8192,
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "capabilities": ["tools", "chat"],
        "limits": {"max_completion_tokens": {"min": 1, "max": 100}, "temperature": {"min": 0, "max": 1}},
        "defaults": {"top_p": 0.5},
        "pricing": {
            "currency": "USD",
            "input_micros": 270_000,
            "output_micros": 1_100_000,
            "cached_input_micros": 70_000,
        },
    }


def test_what_is_not_known_is_not_there() -> None:
    told = model_object(Model(id="m", owner="o", prices=ModelPrices(currency_code="EUR", input_micros=1)))
    ANSWERS["Model"].validate_python(told)
    assert told == {
        "id": "m",
        "object": "model",
        "created": 0,
        "owned_by": "o",
        "pricing": {"currency": "EUR", "input_micros": 1, "output_micros": 0},
    }
