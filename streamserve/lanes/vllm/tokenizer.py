"""The model's tokenizer, for those who send tokens to lanes without the HTTP front."""

from collections.abc import Sequence

from transformers import AutoTokenizer


class ChatTokenizer:
    """Turns a chat into the tokens that vLLM's server would give its engine."""

    def __init__(self, model: str) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Messages (role, text) -> tokens, chat template and the opening of the answer included."""
        chat = [{"role": role, "content": text} for role, text in messages]
        tokens: list[int] = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return tokens
