"""The dialects of third-party checkpoints for BERT, by Hugging Face's model_type and by KerasHub's class names."""

from __future__ import annotations

from dataclasses import replace

from .dialects import further
from .dialects.bert import BERT_LIKE, DISTILBERT, classes, roberta
from .dialects.deberta import DEBERTA, DEBERTA_V2
from .dialects.modernbert import MODERNBERT
from .keras_hub import KERAS_HUB
from .model import BERT

BERT.dialects = {
    "bert": BERT_LIKE,
    "roberta": roberta("Roberta", vocab_size=50265),
    "xlm-roberta": roberta("XLMRoberta"),
    "camembert": roberta("Camembert"),
    "data2vec-text": roberta("Data2VecText", "data2vec_text."),
    "ernie": replace(
        BERT_LIKE,
        demanded={**BERT_LIKE.demanded, "use_task_id": False},
        prefix="ernie.",
        heads=classes("Ernie", *BERT_LIKE.heads),
        other_classes={"ErnieModel": None, "ErnieForPreTraining": "masked_lm"},
    ),
    "distilbert": DISTILBERT,
    "megatron-bert": further.MEGATRON,
    "xlm-roberta-xl": further.XLM_ROBERTA_XL,
    "roberta-prelayernorm": further.ROBERTA_PRE_NORM,
    "big_bird": further.BIG_BIRD,
    "electra": further.ELECTRA,
    "albert": further.ALBERT,
    "mpnet": further.MPNET,
    "nomic_bert": further.NOMIC,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
}
BERT.keras_hub_dialects = KERAS_HUB
