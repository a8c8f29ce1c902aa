"""The CLIP score against torchmetrics 1.9.0 with Hugging Face's CLIP, on a small saved model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the extra train")

from altogether_rt.model._torchvision import make_torchvision_importable  # noqa: E402

make_torchvision_importable()
open_clip = pytest.importorskip("open_clip", reason="needs the extra train")

from altogether_rt.captions import EmbeddedImage  # noqa: E402
from altogether_rt.data.embeddings import EncoderStamp  # noqa: E402
from altogether_rt.data.problems import Problems  # noqa: E402
from altogether_rt.data.sinks.embeddings import EmbeddingSink  # noqa: E402
from altogether_rt.errors import AltogetherError  # noqa: E402
from altogether_rt.evaluation.clip import (  # noqa: E402
    ClipModel,
    ClipScore,
    ImageEmbeddings,
    clip_score,
    open_embeddings,
)
from altogether_rt.evaluation.metric import Bootstrap, Metric, Unavailable  # noqa: E402
from altogether_rt.evaluation.options import load_clip  # noqa: E402

#: A quick one to run: two layers, images of 32 pixels, CLIP's own vocabulary.
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CAPTIONS = {
    "0.png": "a red boat on the sea",
    "1.png": "The Marigold at Porto Lindo, 12 June 2014 (photo: Ana Ruiz)",
    "2.png": "two birds",
    "3.png": "",
}
#: What torchmetrics gives for each image and caption: `published_scores` below.
PUBLISHED = [6.344135761260986, 1.5864331722259521, -1.724292278289795, 2.0974273681640625]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's two files, and four images of the size that it sees."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small.json").write_text(json.dumps(CONFIG))
    model = open_clip.CLIP(**{k: dict(v) if isinstance(v, dict) else v for k, v in CONFIG.items()})
    rng = np.random.default_rng(13)
    state = model.state_dict()
    for name in sorted(state):
        if state[name].is_floating_point() and state[name].ndim:
            values = rng.normal(0, 0.3, tuple(state[name].shape)).astype(np.float32)
            state[name] = torch.from_numpy(values)
    torch.save(state, folder / "small.pt")
    for name in CAPTIONS:
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def model_of(folder: Path) -> ClipModel:
    return ClipModel(str(folder / "small.json"), str(folder / "small.pt"))


def metric(score: ClipScore, captions: dict[str, str], problems: Problems | None = None) -> Any:
    files = {image: image for image in captions}
    (found,) = score.metrics(captions, files, problems if problems is not None else Problems())
    return found


def test_scores_are_those_of_torchmetrics(folder: Path) -> None:
    found = metric(ClipScore(model_of(folder), ImageEmbeddings(folder)), CAPTIONS)
    assert found.rows[:, 0] == pytest.approx(PUBLISHED, abs=1e-4)
    mean = found.estimate(Bootstrap(num_resamples=100)).value
    assert mean == pytest.approx(max(0.0, sum(PUBLISHED) / 4), abs=1e-4)


def test_scores_below_zero_count_as_zero_once_they_are_averaged() -> None:
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    texts = np.array([[0.0, 2.0], [-3.0, 0.0]], np.float32)
    assert clip_score(embeddings, texts).tolist() == [0, -100]


def test_agrees_with_torchmetrics(folder: Path) -> None:
    """Each image's score, and the mean, where torchmetrics and transformers are installed."""
    pytest.importorskip("torchmetrics", reason="needs torchmetrics")
    published = published_scores(folder)
    found = metric(ClipScore(model_of(folder), ImageEmbeddings(folder)), CAPTIONS)
    assert found.rows[:, 0] == pytest.approx(published, abs=1e-4)


def published_scores(folder: Path) -> list[float]:
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update

    model: Any = Features(hugging_face_model(torch.load(folder / "small.pt")))
    images = [
        torch.from_numpy(np.asarray(Image.open(folder / name)).copy()).permute(2, 0, 1)
        for name in CAPTIONS
    ]
    with torch.inference_mode():
        scores, _ = _clip_score_update(images, list(CAPTIONS.values()), model, processor())
    return [float(score) for score in scores]


def processor() -> Any:
    """What Hugging Face's CLIPProcessor does, with open_clip's vocabulary."""
    from transformers import CLIPImageProcessor

    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    transform = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)

    def process(text: Any = None, images: Any = None, **_: Any) -> Any:
        if images is not None:
            return transform(images=images, return_tensors="pt")
        ids = tokenizer(text)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return process


class Features:
    """A model whose features are tensors, as torchmetrics 1.9 expects: here without a wrapper."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config = model.config

    def to(self, device: Any) -> Features:
        return self

    def get_image_features(self, *inputs: Any) -> Any:
        return self._model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: Any) -> Any:
        return self._model.get_text_features(*inputs).pooler_output


def hugging_face_model(state: dict[str, Any]) -> Any:
    """Hugging Face's CLIPModel with the weights of open_clip's."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **shared,
            "num_attention_heads": 2,
            "vocab_size": 49408,
            "eos_token_id": 49407,
            "projection_dim": 16,
        },
        vision_config={
            **shared,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 16,
        },
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    weights = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for part in ("weight", "bias"):
        weights |= {
            f"text_model.final_layer_norm.{part}": state[f"ln_final.{part}"],
            f"vision_model.pre_layrnorm.{part}": state[f"visual.ln_pre.{part}"],
            f"vision_model.post_layernorm.{part}": state[f"visual.ln_post.{part}"],
        }
        for theirs, ours in (("text_model", ""), ("vision_model", "visual.")):
            for layer in range(2):
                to, of = f"{theirs}.encoder.layers.{layer}", f"{ours}transformer.resblocks.{layer}"
                names = {
                    "self_attn.out_proj": "attn.out_proj",
                    "layer_norm1": "ln_1",
                    "layer_norm2": "ln_2",
                    "mlp.fc1": "mlp.c_fc",
                    "mlp.fc2": "mlp.c_proj",
                }
                weights |= {f"{to}.{a}.{part}": state[f"{of}.{b}.{part}"] for a, b in names.items()}
                heads = state[f"{of}.attn.in_proj_{part}"].chunk(3)
                for name, values in zip("qkv", heads, strict=True):
                    weights[f"{to}.self_attn.{name}_proj.{part}"] = values
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith("position_ids") for name in missing)
    return model


def save(path: Path, model: ClipModel, embeddings: dict[str, Any]) -> None:
    with EmbeddingSink(path, EncoderStamp("small", len(next(iter(embeddings.values()))))) as sink:
        for name, values in embeddings.items():
            sink.write(name, EmbeddedImage(bytes(16), values))
        sink.finish()


def test_saved_embeddings_give_the_same_scores(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder)
    names = list(CAPTIONS)
    embeddings = {name: 3 * model.embed_image(folder / name) for name in names}  # of any length
    save(tmp_path / "e.npy", model, embeddings)
    saved = ClipScore(model, ImageEmbeddings(saved=open_embeddings(tmp_path / "e.npy")))
    assert saved.encoder == "small"
    read = ClipScore(model, ImageEmbeddings(folder))
    assert read.encoder is None
    expected = metric(read, CAPTIONS).rows
    assert metric(saved, CAPTIONS).rows == pytest.approx(expected, abs=1e-4)


def test_embeddings_of_another_clip_are_refused(folder: Path, tmp_path: Path) -> None:
    model = model_of(folder)
    save(tmp_path / "wide.npy", model, {"0.png": np.ones(20, np.float32)})
    wide = ImageEmbeddings(saved=open_embeddings(tmp_path / "wide.npy"))
    with pytest.raises(AltogetherError, match=r"embeddings of width 20, but .* of width 16"):
        metric(ClipScore(model, wide), CAPTIONS)
    other = -model.embed_image(folder / "0.png")
    save(tmp_path / "other.npy", model, {"0.png": other})
    images = ImageEmbeddings(folder, open_embeddings(tmp_path / "other.npy"))
    with pytest.raises(AltogetherError, match=r"another encoder .* is -1\.00"):
        metric(ClipScore(model, images), CAPTIONS)


def test_images_that_cannot_be_had_are_counted(folder: Path) -> None:
    problems = Problems()
    captions = {"0.png": "a boat", "none.png": "a bird", "../0.png": "a fish"}
    found = metric(ClipScore(model_of(folder), ImageEmbeddings(folder)), captions, problems)
    assert isinstance(found, Metric)
    assert found.images == ("0.png",)
    assert problems.count == 2
    assert "not in the image folder" in problems.examples[1]
    nothing = metric(ClipScore(model_of(folder), ImageEmbeddings(folder)), {"none.png": "a bird"})
    assert isinstance(nothing, Unavailable)


def test_the_share_of_texts_that_were_cut_is_said(folder: Path) -> None:
    captions = {"0.png": "boat " * 75, "1.png": "boat " * 76, "2.png": "bird", "3.png": "sea"}
    found = metric(ClipScore(model_of(folder), ImageEmbeddings(folder)), captions)
    assert "25.0 % of the captions were longer than 77 tokens" in found.remark


def test_what_cannot_be_loaded(folder: Path) -> None:
    with pytest.raises(AltogetherError, match="needs weights"):
        ClipModel(str(folder / "small.json"))
    with pytest.raises(AltogetherError, match="neither a file nor one of"):
        ClipModel("ViT-B-32", "none-such")
    with pytest.raises(AltogetherError, match="has no model"):
        ClipModel("ViT-B-33", "openai")
    with pytest.raises(AltogetherError, match="needs images"):
        load_clip("ViT-B-32", "openai", None, None)
    (folder / "no.npy").write_bytes(b"")
    (folder / "no.names.jsonl").write_text("[]\n")
    with pytest.raises(AltogetherError, match="does not hold embeddings"):
        open_embeddings(folder / "no.npy")
    with pytest.raises(AltogetherError, match="No such file"):
        open_embeddings(folder / "absent.npy")


def test_command_without_references(folder: Path, tmp_path: Path) -> None:
    """Generated images have a text and no references: the paper scores text-to-image like this."""
    from typer.testing import CliRunner

    from altogether_rt.cli.main import app

    rows = [{"file_name": name, "caption": text} for name, text in CAPTIONS.items()]
    rows.append({"file_name": "none.png", "caption": "a fish"})
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ("--clip", folder / "small.json", "--clip-weights", folder / "small.pt")
    arguments = [str(a) for a in ("eval", path, "--images", folder, *model, "--resamples", 100)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "CLIP score: 0.0 % of the captions were longer than 77 tokens" in done.stdout
    assert "1 images that have no embedding" in done.stdout
    done = CliRunner().invoke(app, [*arguments, "--json"])
    data = json.loads(done.stdout)
    assert data["metrics"]["clip_score"]["value"] == pytest.approx(sum(PUBLISHED) / 4, abs=1e-4)
    assert data["metrics"]["clip_score"]["images"] == 4
    assert data["counts"]["images_without_embedding"] == 1
    assert data["settings"]["clip"].endswith("small.json")
    assert "bleu_4" not in data["metrics"]
