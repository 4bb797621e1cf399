"""Data for training: texts and conversations as batches for ``model.fit``.

    az.data.pack(texts, tokenizer, length)       documents packed into rows, for causal language models
    az.data.masked(texts, tokenizer, length)     texts with masked words, for masked language models
    az.data.chats(chats, tokenizer, length)      conversations with labels at the assistant's tokens
    az.data.read(source)                         texts of files and folders, with the places of their lines

All of them are deterministic in their seed, resumable in the middle of an epoch, and can be divided among processes;
see ``TokenBatches``.
"""

# Keras comes first: its import registers the classes of all families, which a module half imported would prevent.
import keras

from .batches import TokenBatches
from .chats import ChatRows, chats
from .masking import MaskedRows, masked
from .packing import PackedRows, pack
from .sources import Records, read

__all__ = ["ChatRows", "MaskedRows", "PackedRows", "Records", "TokenBatches", "chats", "masked", "pack", "read"]
