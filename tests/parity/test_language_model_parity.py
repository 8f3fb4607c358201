"""The causal Transformer against transformers' GPT-NeoX with the same weights."""

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from unheard.models.language_model import LanguageModel, LanguageModelConfig

CONFIG = LanguageModelConfig(
    vocab=23, context=64, dim=24, ffn_dim=40, layers=3, heads=3, dropout=0.0, attention_dropout=0.0
)


def theirs() -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=CONFIG.vocab,
            hidden_size=CONFIG.dim,
            num_hidden_layers=CONFIG.layers,
            num_attention_heads=CONFIG.heads,
            intermediate_size=CONFIG.ffn_dim,
            hidden_act="gelu",
            rotary_pct=1.0,
            rotary_emb_base=CONFIG.rotary_base,
            max_position_embeddings=64,
            layer_norm_eps=CONFIG.norm_epsilon,
            use_parallel_residual=False,
            tie_word_embeddings=True,
            attention_bias=True,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()


def ours(model: GPTNeoXForCausalLM) -> LanguageModel:
    """Take over every weight; the names and the fused projection are all that differs."""
    weights = model.state_dict()
    renamed = {
        "embedding.weight": weights["gpt_neox.embed_in.weight"],
        "norm.weight": weights["gpt_neox.final_layer_norm.weight"],
        "norm.bias": weights["gpt_neox.final_layer_norm.bias"],
    }
    parts = {
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attention.output": "attention.dense",
        "inner": "mlp.dense_h_to_4h",
        "outer": "mlp.dense_4h_to_h",
    }
    head_dim = CONFIG.dim // CONFIG.heads
    for layer in range(CONFIG.layers):
        for kind in ("weight", "bias"):
            for our, their in parts.items():
                renamed[f"layers.{layer}.{our}.{kind}"] = weights[
                    f"gpt_neox.layers.{layer}.{their}.{kind}"
                ]
            fused = weights[f"gpt_neox.layers.{layer}.attention.query_key_value.{kind}"]
            # Heads one after the other, each with its query, key and value.
            split = fused.view(CONFIG.heads, 3, head_dim, *fused.shape[1:])
            for number, name in enumerate(("query", "key", "value")):
                renamed[f"layers.{layer}.attention.{name}.{kind}"] = split[:, number].reshape(
                    CONFIG.dim, *fused.shape[1:]
                )
    network = LanguageModel(CONFIG)
    network.load_state_dict(renamed, strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[LanguageModel, GPTNeoXForCausalLM]:
    model = theirs()
    with torch.no_grad():  # biases and norms that are not zero and one
        for number, weight in enumerate(model.parameters()):
            noise = torch.Generator().manual_seed(number)
            weight.add_(0.3 * torch.randn(weight.shape, generator=noise))
    model = model.double()
    return ours(model).double(), model


@torch.inference_mode()
def test_logits_are_those_of_gpt_neox(pair: tuple[LanguageModel, GPTNeoXForCausalLM]) -> None:
    network, reference = pair
    tokens = torch.randint(0, CONFIG.vocab, (4, 37), generator=torch.Generator().manual_seed(9))
    found, expected = network(tokens), reference(tokens).logits
    assert expected.std() > 0.5
    # Their angles are float32; everything else here is float64.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    # The places count: the same tokens, turned round, are scored otherwise.
    assert (network(tokens.flip(1)).flip(1) - expected).abs().max() > 0.1


@torch.inference_mode()
def test_a_weight_that_differs_is_noticed(pair: tuple[LanguageModel, GPTNeoXForCausalLM]) -> None:
    network, reference = pair
    tokens = torch.arange(20)[None] % CONFIG.vocab
    changed = LanguageModel(CONFIG).double().eval()
    changed.load_state_dict(network.state_dict())
    changed.layers[1].attention.key.weight.data[0, 0] += 0.1  # pyright: ignore
    assert (changed(tokens) - reference(tokens).logits).abs().max() > 1e-4
