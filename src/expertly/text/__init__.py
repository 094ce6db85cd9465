"""Text to token ids and back, and chats to text. Knows nothing of models or tensors."""

from expertly.text.streaming import StreamDecoder
from expertly.text.template import Message, render
from expertly.text.tokenizer import Tokenizer

__all__ = ["Message", "StreamDecoder", "Tokenizer", "render"]
