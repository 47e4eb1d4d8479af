"""The keys of ``summary.json`` and what each means, for the reference and its test."""

from __future__ import annotations

from typing import NamedTuple


class SummaryKey(NamedTuple):
    """A key of the summary. name: with its table in front, ``engine.batch``; ``[]`` after a list, of which each entry
    has the key."""

    name: str
    meaning: str


_FAULT_MODEL = "of the fault model"

SUMMARY_KEYS: tuple[SummaryKey, ...] = (
    SummaryKey("name", "name of the campaign"),
    SummaryKey("schema_version", "version of the row schema"),
    SummaryKey("seed", "seed of the campaign"),
    SummaryKey("faults", "number of faults"),
    SummaryKey("rows", "number of rows: fault x image"),
    SummaryKey("model", "the model: where it is from, its parameters and hash, and:"),
    SummaryKey(
        "model.test_accuracy", "share of the test images that it classifies correctly, in the original framework"
    ),
    SummaryKey("model.test_images", "number of test images"),
    SummaryKey("model.no_better_than_guessing", "the accuracy's interval holds what guessing gets right"),
    SummaryKey("data", "the data set"),
    SummaryKey("data.name", "its name"),
    SummaryKey("data.classes", "names of the classes, in the order of the outputs"),
    SummaryKey("data.preprocess", "how images become inputs, as values"),
    SummaryKey("data.preprocess_told", "the same in one line"),
    SummaryKey("tiers[]", "the confidence tiers, the least confident first"),
    SummaryKey("tiers[].tier", "its number"),
    SummaryKey("tiers[].low", "lower edge of the margin p1 - p2, not in the tier (but 0)"),
    SummaryKey("tiers[].high", "upper edge, in the tier"),
    SummaryKey("tiers[].available", "correctly classified test images in it"),
    SummaryKey("tiers[].images", "images named in it, on which faults were run"),
    SummaryKey("tiers[].asked", "images asked for; only where it has fewer"),
    SummaryKey("tiers[].thin", "it has fewer images than asked for, or than tiers.thin"),
    SummaryKey("tiers[].classes", "number of named images of each class"),
    SummaryKey("images", "the named images of all tiers"),
    SummaryKey("images.named", "their number"),
    SummaryKey("images.classes", "their number of each class"),
    SummaryKey(
        "images_each[]", "per place, on how many images its persistent faults were run; only where that is not all"
    ),
    SummaryKey("images_each[].target", "model or attention"),
    SummaryKey("images_each[].where", "activation or weight"),
    SummaryKey("images_each[].images", "images of each fault"),
    SummaryKey("images_each[].of", "named images"),
    SummaryKey(
        "images_each[].correlation", "how alike the images of a fault are, by the pilot; null where nothing says"
    ),
    SummaryKey("images_each[].fault_seconds", "what a fault took beside its rows, in the pilot"),
    SummaryKey("images_each[].row_seconds", "what a row took, in the pilot"),
    SummaryKey("images_each[].pilot_faults", "faults of the pilot, none of which counts in a rate"),
    SummaryKey("images_each[].pilot_events", "of these, those with an event on some image"),
    SummaryKey("images_each[].why", "what decided"),
    SummaryKey("engine", "the engine of the first target"),
    SummaryKey("engine.backend", "its name"),
    SummaryKey("engine.hash", "hash of what ran: file, provider, options, versions"),
    SummaryKey("engine.deployment_id", "hash of the plain ONNX file"),
    SummaryKey("engine.precision", "number format of the deployed model"),
    SummaryKey("engine.batch", "images per inference"),
    SummaryKey("engine.threads", "threads per engine"),
    SummaryKey("engines[]", "every engine that ran faults"),
    SummaryKey("engines[].target", "model or attention"),
    SummaryKey("engines[].where", "activation or weight"),
    SummaryKey("engines[].hash", "hash of what ran, as in the column engine_hash"),
    SummaryKey("engines[].deployment_id", "hash of the plain ONNX file"),
    SummaryKey("engines[].file", "the ONNX file in the run folder"),
    SummaryKey("engines[].options", "what it was built with"),
    SummaryKey("engines[].versions", "versions of its libraries"),
    SummaryKey("zero_fault", "gate: rows with a fault that changes nothing"),
    SummaryKey("zero_fault.rows", "their number"),
    SummaryKey("zero_fault.mismatches", "rows that differ from the engine golden in any bit; a campaign has none"),
    SummaryKey("drift", "gate: the twin without a fault against the plain engine"),
    SummaryKey("drift.max_abs_diff", "largest deviation of any output"),
    SummaryKey("drift.bound", "largest that is allowed"),
    SummaryKey("parity[]", "gate: engines against each other and against the original model"),
    SummaryKey("parity[].target", "model or attention"),
    SummaryKey("parity[].pair", "which two"),
    SummaryKey("parity[].max_abs_diff", "largest deviation of any output"),
    SummaryKey("parity[].top1_agreement", "share of images with the same top-1; null without classes"),
    SummaryKey("parity[].bound", "largest deviation that is allowed"),
    SummaryKey("notes", "what the gates had to say, a line each"),
    SummaryKey("left_out", "weights whose faults this engine does not show, with the reason"),
    SummaryKey("tolerance", "what is masked"),
    SummaryKey("tolerance.atol", "absolute tolerance of each tier"),
    SummaryKey("tolerance.rtol", "relative tolerance"),
    SummaryKey("tolerance.rtol_grid", "relative tolerances for which rows store the smallest masking atol"),
    SummaryKey("confidence", "of every interval"),
    SummaryKey("detector", "what noticed faults"),
    SummaryKey("strata[]", "counts and rates of each cell: fault model x tier x site x bit class"),
    SummaryKey("strata[].target", _FAULT_MODEL),
    SummaryKey("strata[].where", _FAULT_MODEL),
    SummaryKey("strata[].op", _FAULT_MODEL),
    SummaryKey("strata[].pattern", _FAULT_MODEL),
    SummaryKey("strata[].scope", _FAULT_MODEL),
    SummaryKey("strata[].tier", "tier of the images"),
    SummaryKey("strata[].site", "the tensor"),
    SummaryKey("strata[].kind", "what the tensor is, whichever block"),
    SummaryKey("strata[].bit_class", "class of the bit; null for random words"),
    SummaryKey("strata[].n", "rows"),
    SummaryKey("strata[].faults", "faults: clusters of rows"),
    SummaryKey("strata[].identical", "rows whose every output bit is the golden's"),
    SummaryKey("strata[].masked", "rows within the tolerance"),
    SummaryKey("strata[].sdc_tolerable", "rows outside the tolerance, with the same top-1"),
    SummaryKey("strata[].sdc1", "rows with another top-1"),
    SummaryKey("strata[].sdc", "rows outside the tolerance, without classes"),
    SummaryKey("strata[].due", "rows of crashes, hangs and outputs that the detector noticed"),
    SummaryKey("strata[].detected", "rows with an alarm of the engine's own checks; only where it has any"),
    SummaryKey("strata[].nonfinite", "rows with a NaN or infinity in the output"),
    SummaryKey("strata[].sdc1_rate", "rate of SDC-1; null without classes"),
    SummaryKey("strata[].sdc1_low", "lower end of its interval"),
    SummaryKey("strata[].sdc1_high", "upper end"),
    SummaryKey(
        "strata[].sdc1_high_95", "what the rate is below with 95 % confidence, one-sided; exact where no event was seen"
    ),
    SummaryKey("strata[].sdc1_high_99", "the same with 99 % confidence"),
    SummaryKey("strata[].outside_rate", "rate of outputs outside the tolerance"),
    SummaryKey("strata[].outside_low", "lower end of its interval"),
    SummaryKey("strata[].outside_high", "upper end"),
    SummaryKey("strata[].outside_high_95", "what the rate is below with 95 % confidence, one-sided"),
    SummaryKey("strata[].outside_high_99", "the same with 99 % confidence"),
    SummaryKey("marginals[]", "rates of each fault model over everything, and by one dimension at a time"),
    SummaryKey("marginals[].target", _FAULT_MODEL),
    SummaryKey("marginals[].where", _FAULT_MODEL),
    SummaryKey("marginals[].op", _FAULT_MODEL),
    SummaryKey("marginals[].pattern", _FAULT_MODEL),
    SummaryKey("marginals[].scope", _FAULT_MODEL),
    SummaryKey("marginals[].by", "all, tier, block, kind, site, bit_class or bit"),
    SummaryKey("marginals[].value", "which one of these; null for all, and outside the blocks"),
    SummaryKey("marginals[].format", "number format of the bits; only by bit"),
    SummaryKey("marginals[].faults", "faults: clusters of rows"),
    SummaryKey("marginals[].n", "rows"),
    SummaryKey(
        "marginals[].rates",
        "sdc1 (null without classes), outside and nonfinite, each with rate, low and high, and the one-sided upper bounds"
        " high_95 and high_99; where the engine checks itself also detected",
    ),
    SummaryKey("evaluation[]", "how the outputs of each fault model were found"),
    SummaryKey("evaluation[].target", _FAULT_MODEL),
    SummaryKey("evaluation[].where", _FAULT_MODEL),
    SummaryKey("evaluation[].op", _FAULT_MODEL),
    SummaryKey("evaluation[].pattern", _FAULT_MODEL),
    SummaryKey("evaluation[].scope", _FAULT_MODEL),
    SummaryKey("evaluation[].rows", "rows"),
    SummaryKey("evaluation[].how", "rows and share of each way: the values of the column evaluation"),
    SummaryKey("evaluation[].due", "rows and share of each kind of DUE"),
    SummaryKey("exposure", "contributions to a failure rate; null without [exposure] in the spec"),
    SummaryKey("exposure.unit", "their unit"),
    SummaryKey("exposure.per_bit", "the weights are per bit"),
    SummaryKey("exposure.weights", "weight of each site pattern, as in the spec"),
    SummaryKey(
        "exposure.models",
        "each fault model: sdc1, outside and nonfinite over all exposed sites and of each site, as exposure, value, low, high"
        " and the one-sided upper bounds high_95 and high_99;"
        " not_sampled are sites of which no fault was drawn. Models are alternatives: they do not add up",
    ),
    SummaryKey("exposure.totals", "activations and weights together, of one operation and pattern"),
    SummaryKey("protection", "protection of the deployed file; only where it is protected"),
    SummaryKey("protection.passes", "its passes, as the file's metadata has them"),
    SummaryKey(
        "protection.on_detected",
        "what follows an alarm, as in the spec; with checks that raise any",
    ),
    SummaryKey(
        "protection.false_alarms",
        "gate: images and alarms without a fault (a campaign has none), one-sided upper bounds bound_95 and bound_99 of that"
        " share, and second_run_seconds: what a second run takes per image, measured; null where nothing is run again",
    ),
    SummaryKey(
        "protection.models",
        "each fault model: detected (rows), and the shares sdc1 (of outputs of another top-1, those with an alarm), outside"
        " (of outputs outside the tolerance), inside (of those inside it), recovered (of rows that were run again), each with"
        " rows, faults, rate, low, high and the one-sided bounds low_95 and low_99, absent where there are no such rows;"
        " second_run_seconds, expected per faulty inference",
    ),
    SummaryKey("timing[]", "how long each stage took"),
    SummaryKey("timing[].stage", "its name"),
    SummaryKey("timing[].seconds", "wall time; what was reused took next to none"),
    SummaryKey("wall_seconds", "wall time of the stage that runs faults"),
    SummaryKey("engine_seconds", "time in the engine, of all workers"),
    SummaryKey("worker_seconds", "time of all workers"),
    SummaryKey("scaling_efficiency", "engine_seconds / worker_seconds; null where nothing was left to do"),
    SummaryKey("injections_per_second", "rows per second of this process's part of the run"),
    SummaryKey("failures", "what went wrong and was put right"),
    SummaryKey("failures.crashes", "workers that crashed"),
    SummaryKey("failures.hangs", "workers that hung"),
    SummaryKey("failures.losses", "workers that were lost"),
    SummaryKey("failures.blamed", "faults that fail alone, again and again: DUE"),
    SummaryKey("failures.refused", "workers of a cluster that were refused, with the reason"),
    SummaryKey(
        "stop", "the [stop] table, whether and when it was met, and each round; null where all is planned at once"
    ),
    SummaryKey("evaluated_by", "which shortcut is on for each target and place, and the gate that showed its bits"),
    SummaryKey("statement", "what the rates speak of, in words"),
)
