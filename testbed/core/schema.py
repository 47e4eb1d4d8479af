"""The result row: one per (fault, image), rich enough that no later question needs a re-run. Versioned, fixed early.

Change a name or a meaning only together with ``SCHEMA_VERSION``; readers refuse versions they do not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 4
READABLE_VERSIONS = (
    2,
    3,
    4,
)  # 2: finished tables without the rows' weight; 3: without the outcome "detected", and recovered


class Column(NamedTuple):
    name: str
    type: str
    meaning: str


FAULT_COLUMNS: tuple[Column, ...] = (
    Column("fault_id", "int64", "number of the fault in the plan"),
    Column("target", "dictionary", "model or attention"),
    Column("where", "dictionary", "activation or weight"),
    Column("site", "dictionary", "stable human name of the struck tensor"),
    Column("kind", "dictionary", "what the tensor is, whichever block"),
    Column("block", "int16", "block number; null outside the blocks"),
    Column("index", "int64", "flat index into the site's canonical shape"),
    Column("format", "dictionary", "number format of the struck word: fp32, fp16, bf16, int8, ..."),
    Column("op", "dictionary", "flip, stuck0, stuck1, random or identity"),
    Column("bit", "int16", "struck bit, 0 the least significant; null for whole-word faults"),
    Column("bit_class", "dictionary", "display class of the bit"),
    Column("and_mask", "uint32", "v' = ((v & and) | or) ^ xor"),
    Column("or_mask", "uint32", "v' = ((v & and) | or) ^ xor"),
    Column("xor_mask", "uint32", "v' = ((v & and) | or) ^ xor"),
    Column(
        "points", "int32", "struck words; the columns above describe the first, the plan's points file holds them all"
    ),
    Column("pattern", "dictionary", "how the struck words lie: single, or the name of a fault pattern"),
    Column("scope", "dictionary", "inference: one image, once; persistent: every image"),
    Column(
        "stratum",
        "int32",
        "number of the sampling stratum in the plan; what a round of an adaptive campaign draws from it is one of its own",
    ),
)

PLAN_COLUMNS: tuple[Column, ...] = (
    *FAULT_COLUMNS,
    Column("round", "int16", "round of an adaptive campaign that drew it; 0 where all are planned at once"),
    Column("draw", "int32", "number of the draw within its stratum"),
    Column(
        "population",
        "int64",
        "faults in the stratum: (element, bit, image) for activations, (element, bit) for weights; in an adaptive campaign"
        " those that the round's draws stand for",
    ),
    Column(
        "inclusion",
        "float64",
        "probability that this fault was drawn; null where its random content was drawn with it, of too many to count, and"
        " in an adaptive campaign where its images were, so that it may be drawn again",
    ),
    Column("image_id", "dictionary", "the image struck; null of persistent faults, which are run on several"),
    Column("tier", "int16", "confidence tier of the stratum, 0 the least confident; null of persistent faults"),
    Column(
        "image_ids",
        "list<string>",
        "the images that a persistent fault is run on, where these were drawn for it; null where all named images are, and"
        " of faults with an image_id",
    ),
)

ROW_COLUMNS: tuple[Column, ...] = (
    *FAULT_COLUMNS,
    Column("image_id", "dictionary", "stable id of the image"),
    Column("label", "int16", "true class"),
    Column("tier", "int16", "confidence tier of the image, 0 the least confident"),
    Column("golden_value", "float32", "value at the struck element, without the fault"),
    Column("faulty_value", "float32", "value at the struck element, with the fault"),
    Column("golden_word", "uint32", "its bits, zero-extended: exact for every format, NaN payloads included"),
    Column("faulty_word", "uint32", "the struck bits"),
    Column("outcome", "dictionary", "identical, masked, sdc_tolerable, sdc1, sdc, due or detected"),
    Column("due", "dictionary", "crash, hang or nonfinite (noticed by the detector); null unless the outcome is due"),
    Column("nonfinite", "bool", "NaN or infinity in the output"),
    Column("sdc5", "bool", "faulty top-1 not among the golden's five best; null without classes"),
    Column("sdc10", "bool", "golden class's probability moved by more than 10 % of its value; null without classes"),
    Column("sdc20", "bool", "golden class's probability moved by more than 20 % of its value; null without classes"),
    Column(
        "detected", "bool", "the campaign's detector saw it, or the engine's own checks did (then it is the outcome)"
    ),
    Column(
        "recovered",
        "bool",
        "the run after an alarm of the engine's own checks gave an output within the tolerance, without another alarm; null"
        " where there was none",
    ),
    Column("infrastructure_failure", "bool", "the engine failed, but not when the fault was run alone"),
    Column("max_abs_diff", "float64", "largest |faulty - golden| over the output; inf where either is not finite"),
    Column("mismatches", "int32", "output elements outside the tolerance"),
    Column("top1_golden", "int16", "null without classes"),
    Column("top1_faulty", "int16", "-1 where a logit is NaN; null without classes"),
    Column("margin_golden", "float32", "p1 - p2 of the golden output; null without classes"),
    Column("margin_faulty", "float32", "p1 - p2 of the faulty output; null without classes"),
    Column("probability_golden", "float32", "golden class's probability, golden output; null without classes"),
    Column("probability_faulty", "float32", "golden class's probability, faulty output; null without classes"),
    Column("logits", "list<float32>", "faulty logits; null without classes"),
    Column("masking_atol", "list<float64>", "smallest atol that masks the fault, per rtol of the spec's grid"),
    Column("evaluation", "dictionary", "how the output was found: whole, suffix, rows, unchanged, dead or incremental"),
    Column("error_bound", "float32", "largest deviation of any output element from exact evaluation; 0 where exact"),
    Column("engine_hash", "dictionary", "what ran: file, provider, options, versions"),
    Column("deployment_id", "dictionary", "the plain ONNX file the engine was made from"),
    Column("schema_version", "int16", "of this row"),
)

RESULT_COLUMNS: tuple[Column, ...] = (
    *ROW_COLUMNS,
    Column(
        "weight",
        "float64",
        "what the row stands for: its stratum's population over the stratum's rows. Weighted means of rows of one fault"
        " model (target, where, op, pattern, scope) are the summary's rates; plain means and counts are not",
    ),
)
"""Of the finished table: a row's weight is known when all rows are."""


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The pyarrow schema of a column list. Text columns are dictionary-encoded."""
    import pyarrow as pa

    types = {
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
        "bool": pa.bool_(),
        "list<float32>": pa.list_(pa.float32()),
        "list<float64>": pa.list_(pa.float64()),
        "list<string>": pa.list_(pa.string()),
    }
    kinds = [pa.field(c.name, types.get(c.type) or pa.type_for_alias(c.type)) for c in columns]
    return pa.schema(kinds, metadata={"schema_version": str(SCHEMA_VERSION)})
