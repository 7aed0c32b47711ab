"""A tiny random Llama with a byte-level tokenizer, adapters made by peft, and ways to ask them."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from fastapi import FastAPI
from peft import LoraConfig, get_peft_model
from pydantic import SecretBytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.serving.app import create_app
from worker.serving.engine import Engine
from worker.serving.errors import ServingError
from worker.serving.loading import Served, WeightsFolder, load
from worker.serving.lora import Adapter
from worker.serving.readiness import Readiness
from worker.serving.rows import Progress, Row
from worker.serving.sampling import Choice, Sampler, SamplingPlan
from worker.serving.settings import ServingSettings
from worker.serving.text import AnswerText, Vocabulary

MODEL = "tiny"
TOKEN = "a-token-for-tests-only"
CONTEXT_TOKENS = 256
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices this small gain nothing from more, and a busy machine makes threads wait for each other."""
    torch.set_num_threads(1)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *alphabet, "ab", "Ġa", "Ġab"]
    merges = [("a", "b"), ("Ġ", "a"), ("Ġa", "b")]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in Hugging Face layout. Its weights are large enough for logits to differ clearly."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> LlamaForCausalLM:
    """The same weights as transformers computes them."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM)
    return model


MakeAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def peft_folder(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """Makes an adapter folder with peft itself: `peft_folder(seed, **LoraConfig fields)`."""
    made: dict[str, Path] = {}

    def make(seed: int, **options: Any) -> Path:
        name = f"{seed}-{sorted(options.items())}"
        if name not in made:
            settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS}
            settings["task_type"] = "CAUSAL_LM"
            torch.manual_seed(seed)
            base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
            model = get_peft_model(base, LoraConfig(**(settings | options)))
            with torch.no_grad():
                for parameter_name, parameter in model.named_parameters():
                    if "lora_" in parameter_name:
                        parameter.normal_(0, 0.2)
            model.peft_config["default"].base_model_name_or_path = MODEL
            made[name] = tmp_path_factory.mktemp(f"adapter-{seed}")
            model.save_pretrained(str(made[name]), save_embedding_layers=False)
        return made[name]

    return make


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


@pytest.fixture
def put_adapter(storage: Path, peft_folder: MakeAdapter) -> Callable[..., Path]:
    """Copies a peft adapter into the storage directory."""

    def put(name: str, seed: int, **options: Any) -> Path:
        return Path(shutil.copytree(peft_folder(seed, **options), storage / name))

    return put


@pytest.fixture
def start(model_dir: Path, storage: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Loads the tiny model with other settings: `start(max_rows=2)`. Stopped after the test."""
    started: list[Served] = []
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    token_file.chmod(0o600)

    def run(**settings: Any) -> Served:
        fields: dict[str, Any] = {
            "model": MODEL,
            "token_file": token_file,
            "adapter_root": storage,
            "kv_cache_megabytes": 1,
            "precision": "fp32",
            "threads": 1,
            "default_output_tokens": 12,
        }
        options = ServingSettings(_env_file=None, **(fields | settings))  # type: ignore[call-arg]
        started.append(load(options, WeightsFolder(path=model_dir, digest="tiny"), created_at=1_700_000_000))
        return started[-1]

    yield run
    for served in started:
        served.engine.stop()


@pytest.fixture
def served(start: Callable[..., Served]) -> Served:
    return start()


@pytest.fixture
def app(served: Served) -> FastAPI:
    return app_of(served)


def app_of(served: Served) -> FastAPI:
    readiness = Readiness()
    readiness.set_served(served)
    return create_app(readiness, token=SecretBytes(TOKEN.encode()))


@pytest.fixture
def make_client() -> Callable[[FastAPI], httpx2.AsyncClient]:
    """An authenticated client of an application; failures inside it come back as replies."""

    def make(app: FastAPI) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False),
            base_url="http://serving",
            headers={"authorization": f"Bearer {TOKEN}"},
        )

    return make


@pytest.fixture
def client(app: FastAPI, make_client: Callable[[FastAPI], httpx2.AsyncClient]) -> httpx2.AsyncClient:
    return make_client(app)


@dataclass
class Asked:
    """One row's whole answer."""

    text: str = ""
    tokens: list[Choice] = field(default_factory=list)
    last: Progress | None = None
    error: ServingError | None = None


class Asker:
    """Puts rows into an engine and waits for all of them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 12,
        adapters: Sequence[Adapter | None] | None = None,
        plan: SamplingPlan | None = None,
        stops: Sequence[str] = (),
        cache_salt: str = "",
    ) -> list[Asked]:
        answers = [Asked() for _ in prompts]
        finished: queue.Queue[int] = queue.Queue()
        rows = [
            self._row(
                list(prompt),
                answers[at],
                lambda at=at: finished.put(at),  # type: ignore[misc]
                adapter=adapters[at] if adapters else None,
                plan=plan or SamplingPlan(temperature=0, top_logprobs=0),
                max_new_tokens=max_new_tokens,
                stops=stops,
                cache_salt=cache_salt,
            )
            for at, prompt in enumerate(prompts)
        ]
        engine.submit(rows)
        for _ in rows:
            finished.get(timeout=60)
        return answers

    def _row(
        self,
        prompt: list[int],
        answer: Asked,
        done: Callable[[], None],
        *,
        adapter: Adapter | None,
        plan: SamplingPlan,
        max_new_tokens: int,
        stops: Sequence[str],
        cache_salt: str,
    ) -> Row:
        def sink(news: Progress | ServingError) -> None:
            if isinstance(news, ServingError):
                answer.error = news
                done()
                return
            answer.text += news.text
            answer.tokens.extend(news.tokens)
            answer.last = news
            if news.finish_reason is not None:
                done()

        return Row(
            prompt_tokens=len(prompt),
            tokens=prompt,
            max_new_tokens=max_new_tokens,
            adapter=adapter,
            cache_salt=cache_salt,
            sampler=Sampler(plan, index=0),
            answer=AnswerText(self._vocabulary, stops),
            sink=sink,
        )


@pytest.fixture
def ask(served: Served) -> Asker:
    return Asker(served.vocabulary)
