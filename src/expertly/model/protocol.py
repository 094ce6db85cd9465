"""What every model offers to those who run it, whatever computes it."""

from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

from expertly.config import ModelConfig
from expertly.model.decoder import Output

if TYPE_CHECKING:
    from expertly.text import Tokenizer


class Model(Protocol):
    """`Decoder` and `NativeDecoder`; a model takes the caches that it made itself, and reads
    prompts best in chunks of `prompt_chunk` tokens. Texts are at most `context` tokens long: what
    the config says, or fewer where a memory budget has room for no more."""

    config: ModelConfig
    tokenizer: "Tokenizer | None"
    prompt_chunk: int
    context: int

    def new_cache(self, batch_size: int = 1) -> Any: ...

    def __call__(
        self,
        ids_BS: Tensor,
        mask_BS: Tensor | None = None,
        *,
        cache: Any = None,
        logits: Literal["all", "last"] = "all",
        routings: bool = False,
    ) -> Output: ...
